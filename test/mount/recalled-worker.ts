/**
 * A program on a mount whose files another mount changes: recalled-worker.js DIRECTORY NAME SEED, until its input ends. It changes only what
 * has its own name, looks at all, and ends with 1 when it was told what no file system tells without a cause.
 */
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmdirSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { pick, SeededRandom } from '../../src/core/random.js';
import { DIRECTORIES, NAMES } from './recalled-tree.js';

const [root, own, seed] = process.argv.slice(2);
if (root === undefined || own === undefined) throw new Error('who?');
process.chdir(root);
const random = new SeededRandom(Number(seed));
let isOver = false;
process.stdin.on('end', () => (isOver = true)).resume();

const EXPECTED = new Set(['ENOENT', 'EEXIST', 'ENOTEMPTY', 'ENOTDIR', 'EISDIR', 'EINVAL', 'EPERM']);
const calls = new Map<string, number>();

const directory = (): string => pick(random, DIRECTORIES);
const shared = (): string => `${directory()}/${pick(random, NAMES)}`;
const mine = (): string => `${directory()}/${own}${random.below(4)}`;

const ACTIONS: Readonly<Record<string, () => void>> = {
  stat: () => statSync(shared()),
  lstat: () => lstatSync(shared()),
  dots: () => statSync(`${directory()}/../${shared()}`),
  missing: () => statSync(`${directory()}/nothing`),
  access: () => accessSync(shared(), constants.R_OK),
  read: () => readFileSync(shared()),
  list: () => readdirSync(directory()),
  listLong: () => {
    const path = directory();
    for (const name of readdirSync(path)) lstatSync(`${path}/${name}`);
  },
  mkdir: () => mkdirSync(mine()),
  rmdir: () => rmdirSync(mine()),
  create: () => writeFileSync(mine(), own),
  openOrCreate: () => closeSync(openSync(mine(), constants.O_RDWR | constants.O_CREAT)),
  exclusive: () => closeSync(openSync(mine(), constants.O_RDWR | constants.O_CREAT | constants.O_EXCL)),
  unlink: () => unlinkSync(mine()),
  rename: () => renameSync(mine(), mine()),
  link: () => linkSync(mine(), mine()),
  chmod: () => chmodSync(mine(), 0o600 | random.below(0o100)),
  readHeld: () => {
    const file = openSync(shared(), 'r');
    try {
      for (let i = 0; i < 5; i++) readSync(file, Buffer.alloc(5000), 0, 5000, 0);
    } finally {
      closeSync(file);
    }
  },
  within: () => {
    process.chdir(`${String(root)}/${directory()}`);
    try {
      statSync(pick(random, NAMES));
    } finally {
      process.chdir(String(root));
    }
  },
};

function act(): void {
  const name = pick(random, Object.keys(ACTIONS));
  calls.set(name, (calls.get(name) ?? 0) + 1);
  try {
    ACTIONS[name]?.();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    if (EXPECTED.has(code)) return;
    process.stdout.write(`${name}: ${String(error)}\n`);
    process.exit(1);
  }
}

function turn(): void {
  const endMs = Date.now() + 20;
  while (Date.now() < endMs) act();
  if (!isOver) setImmediate(turn);
  else process.stdout.write(`${[...calls.values()].reduce((sum, count) => sum + count, 0)} calls\n`);
}
turn();
