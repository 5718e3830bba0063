import t from 'tap';
import { parseMountOptions } from '../../src/cli/mount-options.js';

t.test('-o: flags of the kernel, options of the command, and what is for others', async (t) => {
  const text =
    'rw,noatime,_netdev,nofail,x-systemd.automount,comment=text,secret=/etc/s=1,driver=kernel,allow_other,subdir=/a/b';
  t.match(parseMountOptions(text), {
    flags: ['rw', 'noatime'],
    subdirectory: '/a/b',
    noteReads: 'none',
    remount: false,
    options: { secret: '/etc/s=1', driver: 'kernel', allowOther: true },
  });
  t.match(parseMountOptions(''), { flags: [], subdirectory: '/', noteReads: 'all', remount: false, options: {} });
  t.same(parseMountOptions(',ro,,entry-timeout=2,').options, { entryTimeout: '2' });
  const again = parseMountOptions('rw,user_id=0,group_id=0,max_read=4096,remount,ro');
  t.same([again.remount, again.flags], [true, ['rw', 'ro']]);
  t.throws(() => parseMountOptions('rw,user_id=0'), /-o user_id=0/);
  t.same(parseMountOptions('user=joe,users,X-mount.mkdir,defaults').flags, []);
});

t.test('which reads are noted in atime: the last of a pair counts', async (t) => {
  const cases = {
    relatime: 'all',
    'noatime,relatime': 'none',
    'noatime,atime': 'all',
    nodiratime: 'files',
    'nodiratime,diratime': 'all',
    'nodiratime,noatime': 'none',
    ro: 'none',
    'ro,rw': 'all',
  };
  for (const [text, notes] of Object.entries(cases)) t.equal(parseMountOptions(text).noteReads, notes, text);
});

t.test('who is who: uidmap, gidmap, squash', async (t) => {
  const { ids } = parseMountOptions('uidmap=1000:5000:10,uidmap=7:8,gidmap=100:200,root_squash,anonuid=99');
  t.same(ids.callerOf({ uid: 1009, gid: 100, groups: [] }), { uid: 5009, gid: 200, groups: [] });
  t.same(ids.callerOf({ uid: 0, gid: 0, groups: [0] }), { uid: 99, gid: 65_534, groups: [] });
  t.equal(parseMountOptions('all_squash,root_squash').ids.squash, 'all');
  t.equal(parseMountOptions('all_squash,no_all_squash').ids.isIdentity, true);
  for (const text of [
    'uidmap=1',
    'uidmap=a:b',
    'gidmap=1:2:3:4',
    'anonuid=4294967295',
    'uidmap=1:2,uidmap=1:3',
    'uidmap',
  ]) {
    t.throws(() => parseMountOptions(text), { name: 'UsageError', message: /^-o (uid|gid|anonuid)/ }, text);
  }
});

t.test('an option that would not be heeded is refused', async (t) => {
  for (const text of ['noatme', 'ro=1', 'subdir', 'fd=3', 'max_read=1', 'constructor=1', 'constructor']) {
    t.throws(
      () => parseMountOptions(text),
      { message: new RegExp(`-o ${text}: .* there are: ro rw .* subdir= `) },
      text,
    );
  }
  for (const text of ['secret=', 'subdir=', 'cache-timeout=']) {
    t.throws(() => parseMountOptions(text), { message: `-o ${text} needs a value` });
  }
  t.throws(() => parseMountOptions('strictatime'), { message: /every read a write/ });
});
