import t from 'tap';
import { Options } from '../../src/cli/command.js';
import { runCairn } from '../support/process-cluster.js';

t.test('wrong arguments: one line on stderr, exit code 2', async (t) => {
  const env = { PATH: process.env['PATH'] };
  const cases: [string[], RegExp][] = [
    [[], /which command/],
    [['bogus'], /unknown command 'bogus'/],
    [['up'], /missing required argument 'mountpoint'/],
    [['up', '/mnt', 'more'], /too many arguments/],
    [['up', '/mnt', '--bogus'], /unknown option '--bogus'/],
    [['up', '/mnt', '--replicas', 'two'], /--replicas must be a whole number/],
    [['up', '/mnt', '--chunkservers', '0'], /from 1 to/],
    [['up', '/mnt', '--data'], /argument missing/],
    [['status', '--master', 'nowhere'], /HOST:PORT/],
    [['ls', 'relative/path'], /begins with '\/'/],
    [['cp', 'a'], /needs a source and a target/],
    [['cp', 'a', 'b'], /none of them is of the cluster/],
    [['master'], /--data is missing/],
    [['master', '--data', '/tmp/none', '--min-replicas', '3'], /cannot be more/],
    [['chunkserver', '--data', '/tmp/none'], /--master is missing/],
    [['mount', '/tmp', '--log-level', 'loud', '--master', 'a:1', '--secret', 'x'], /--log-level/],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await runCairn(args, env);
    t.equal(code, 2, args.join(' '));
    t.match(stderr, message);
    t.match(stderr, /--help\n$/);
    t.equal(stderr.split('\n').length, 2, 'one line');
    t.equal(stdout, '');
  }
});

t.test('what fails later: one line, exit code 1', async (t) => {
  const nowhere = ['--master', '127.0.0.1:1', '--secret', '/nonexistent/secret'];
  for (const args of [
    ['status', ...nowhere],
    ['mount', '/nonexistent', ...nowhere],
    ['umount', '/'],
    ['down', '/proc'],
  ]) {
    const { code, stderr } = await runCairn(args);
    t.equal(code, 1, args.join(' '));
    t.equal(stderr.split('\n').length, 2, stderr);
  }
});

t.test('help and version', async (t) => {
  const { stdout } = await runCairn(['--help']);
  const names = [...stdout.matchAll(/^ {2}([a-z]+) .*$/gm)]
    .map((match) => match[1] ?? '')
    .filter((name) => name !== 'help');
  const commands = names.filter((name) => !['cairn'].includes(name));
  t.ok(commands.length >= 13, commands.join(' '));
  for (const name of ['up', 'info', 'cp', 'chunkserver']) {
    const help = await runCairn([name, '--help']);
    t.equal(help.code, 0);
    t.match(help.stdout, /Examples:\n {2}\$ \S*cairn /);
  }
  const version = await runCairn(['--version']);
  t.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
});

t.test('option values', (t) => {
  const options = new Options({
    n: '12',
    s: '0.5',
    a: '10.0.0.1:9420',
    six: '[::1]:1',
    yes: true,
    list: ['a', 'b'],
    e: '',
  });
  t.equal(options.whole('n', { min: 1, max: 12 }), 12);
  t.throws(() => options.whole('n', { min: 1, max: 11 }), { name: 'UsageError' });
  t.equal(options.seconds('s'), 500);
  t.throws(() => options.seconds('a'), { name: 'UsageError' });
  t.equal(options.address('a'), '10.0.0.1:9420');
  t.equal(options.address('six'), '[::1]:1');
  t.throws(() => options.address('n'), { name: 'UsageError' });
  t.equal(options.flag('yes'), true);
  t.equal(options.choice('missing'), undefined);
  t.same(options.texts('list'), ['a', 'b']);
  t.throws(() => options.text('e'), { name: 'UsageError' });
  t.throws(() => options.required('missingName'), { message: /--missing-name/ });
  t.end();
});
