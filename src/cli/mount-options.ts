/**
 * The text behind `-o`, as mount(8) and /etc/fstab have it. Words that `cairn mount` has an option of its own for become
 * that option; those of the kernel are passed on; those that are only for mount(8), systemd and the like are left out.
 * docs/mounting.md has the table.
 */
import type { ReadNotes } from '../filesystem/filesystem.js';
import type { IdMapping } from '../filesystem/id-mapping.js';
import { UsageError } from './command.js';
import { ID_OPTIONS, IdOptions } from './id-options.js';

export interface MountOptions {
  /** For the kernel, such as 'ro', in the order in which they were given: the last one of a pair counts. */
  readonly flags: readonly string[];
  /** The directory of the cluster that is to be the root of the mount: '/' unless told. */
  readonly subdirectory: string;
  /** Which reads are noted in atime. The kernel leaves that to us. */
  readonly noteReads: ReadNotes;
  /** Change the flags of a mount that there is already. */
  readonly remount: boolean;
  /** Who is who in the cluster. */
  readonly ids: IdMapping;
  /** Options of `cairn mount`, by the names that the command gives them. */
  readonly options: Readonly<Record<string, string | boolean>>;
}

const words = (text: string): readonly string[] => text.split(' ');

/** Of the mount itself, whatever the file system is: mount(8), "filesystem-independent mount options". */
const KERNEL_FLAGS = words(
  'ro rw nosuid suid nodev dev noexec exec noatime atime nodiratime diratime relatime sync async dirsync',
);
/** Read by others before or instead of us, or true in any case. */
const NOT_OURS = words('defaults auto noauto user nouser users owner group nofail _netdev default_permissions');
/** What /proc/mounts shows of such a mount: mount(8) says it again when it is to change others of its options. */
const SHOWN_BY_KERNEL = words('user_id group_id max_read blksize');
const SWITCHES: Readonly<Record<string, readonly [option: string, value: boolean]>> = {
  allow_other: ['allowOther', true],
  noallow_other: ['allowOther', false],
};
const VALUES: Readonly<Record<string, string>> = {
  secret: 'secret',
  data: 'data',
  driver: 'driver',
  'attribute-timeout': 'attributeTimeout',
  'entry-timeout': 'entryTimeout',
  'cache-timeout': 'cacheTimeout',
  leases: 'leases',
  'log-level': 'logLevel',
};
const NOT_DONE: Readonly<Record<string, string>> = {
  strictatime: 'it would make every read a write; relatime and noatime are there',
  norelatime: 'it would make every read a write; relatime and noatime are there',
};

/** Throws UsageError for a word that is not known: an option that is not heeded is worse than none. */
export function parseMountOptions(text: string): MountOptions {
  const flags: string[] = [];
  const options: Record<string, string | boolean> = {};
  const ids = new IdOptions();
  let subdirectory = '/';
  const given = text.split(',').filter((word) => word !== '' && word !== 'remount');
  const remount = text.split(',').includes('remount');
  for (const word of given) {
    const equals = word.indexOf('=');
    const [name, value] = equals < 0 ? [word, undefined] : [word.slice(0, equals), word.slice(equals + 1)];
    if (isForOthers(name, value) || (remount && SHOWN_BY_KERNEL.includes(name))) continue;
    const option = of(VALUES, name);
    const flip = of(SWITCHES, name);
    if (ids.take(name, value)) continue;
    if (name === 'subdir' && value) subdirectory = value;
    else if (option !== undefined && value) options[option] = value;
    else if (value === '' && (option !== undefined || name === 'subdir'))
      throw new UsageError(`-o ${word} needs a value`);
    else if (value !== undefined) throw unknown(word);
    else if (KERNEL_FLAGS.includes(name)) flags.push(name);
    else if (flip !== undefined) options[flip[0]] = flip[1];
    else throw unknown(word);
  }
  return { flags, subdirectory, noteReads: notesOf(flags), remount, ids: ids.mapping(), options };
}

const of = <T>(record: Readonly<Record<string, T>>, name: string): T | undefined =>
  Object.hasOwn(record, name) ? record[name] : undefined;

/** 'user=NAME' is what mount(8) makes of 'user'. */
function isForOthers(name: string, value: string | undefined): boolean {
  if (/^x-/i.test(name) || name === 'comment') return true;
  return value === undefined ? NOT_OURS.includes(name) : name === 'user';
}

function notesOf(flags: readonly string[]): ReadNotes {
  const last = (...names: string[]): string | undefined => flags.findLast((flag) => names.includes(flag));
  if (flags.includes('ro') && last('ro', 'rw') === 'ro') return 'none';
  // As in the kernel, relatime says how atime is kept, and neither takes the other back.
  if (last('noatime', 'atime') === 'noatime') return 'none';
  return last('nodiratime', 'diratime') === 'nodiratime' ? 'files' : 'all';
}

function unknown(word: string): UsageError {
  const why = of(NOT_DONE, word);
  if (why !== undefined) return new UsageError(`-o ${word} is not supported: ${why}`);
  const values = ['subdir', ...Object.keys(VALUES)].map((name) => `${name}=`);
  const known = [...KERNEL_FLAGS, ...Object.keys(SWITCHES), ...values, ...ID_OPTIONS, 'remount'].join(' ');
  return new UsageError(`-o ${word}: there is no such option; there are: ${known}, and ${NOT_OURS.join(' ')} x-…`);
}
