/** Copying between two trees: what `cp`, `put` and `get` have in common. */
import { asCairnError, CairnError } from '../../core/errors.js';
import { describe, note } from '../command.js';
import { showProgress } from './progress.js';
import { baseName, joinPath } from './tree.js';
import type { Tree, TreeStat } from './tree.js';

export interface CopyOptions {
  readonly recursive: boolean;
  /** Called with one line for each thing that could not be copied; the rest goes on. */
  readonly onFailure: (line: string) => void;
}

export interface Source {
  readonly tree: Tree;
  readonly path: Buffer;
}

/**
 * As cp(1): into `target` when it is a directory, else to that very name, which only one source can have. A name that ends in '/' can
 * only be a directory: it is made if need be.
 */
export async function copyAll(sources: readonly Source[], target: Source, options: CopyOptions): Promise<void> {
  let existing = await target.tree.stat(target.path);
  if (existing === undefined && target.path.at(-1) === '/'.charCodeAt(0)) {
    await target.tree.makeDirectory(target.path, 0o755);
    existing = await target.tree.stat(target.path);
  }
  if (sources.length > 1 && existing?.kind !== 'directory') {
    throw new CairnError(
      'ENOTDIR',
      `${target.tree.show(target.path)} is not a directory, and there are several sources`,
    );
  }
  for (const source of sources) {
    const name = baseName(source.path);
    const into = existing?.kind === 'directory' && name.length > 0;
    const path = into ? joinPath(target.path, name) : target.path;
    await tryCopy(source, { tree: target.tree, path }, options, true);
  }
}

async function tryCopy(source: Source, target: Source, options: CopyOptions, top: boolean): Promise<void> {
  const shown = source.tree.show(source.path);
  try {
    // A symlink that is named stands for what it leads to, one that is met on the way for itself.
    const found = await (top && !options.recursive ? source.tree.stat(source.path) : source.tree.lstat(source.path));
    if (found === undefined) throw new CairnError('ENOENT', `${shown} does not exist`);
    await copyOne(source, target, found, options);
  } catch (error) {
    const line = describe(error);
    options.onFailure(line.includes(shown) ? line : `${shown}: ${line}`);
  }
}

async function copyOne(source: Source, target: Source, found: TreeStat, options: CopyOptions): Promise<void> {
  const shown = source.tree.show(source.path);
  switch (found.kind) {
    case 'file':
      await copyFile(source, target, found);
      return;
    case 'symlink':
      await target.tree.makeSymlink(target.path, await source.tree.readLink(source.path));
      return;
    case 'directory':
      if (!options.recursive) throw new CairnError('EISDIR', `${shown} is a directory: use -r`);
      await copyDirectory(source, target, found, options);
      return;
    case 'fifo':
    case 'socket':
    case 'characterDevice':
    case 'blockDevice':
      throw new CairnError('EINVAL', `${shown} is a ${found.kind} and is left out`);
  }
}

async function copyDirectory(source: Source, target: Source, found: TreeStat, options: CopyOptions): Promise<void> {
  const existing = await target.tree.stat(target.path);
  if (existing === undefined) await target.tree.makeDirectory(target.path, found.mode | 0o700);
  else if (existing.kind !== 'directory') {
    throw new CairnError('ENOTDIR', `${target.tree.show(target.path)} is there and is no directory`);
  }
  for await (const name of source.tree.list(source.path)) {
    const below = { tree: source.tree, path: joinPath(source.path, name) };
    await tryCopy(below, { tree: target.tree, path: joinPath(target.path, name) }, options, false);
  }
}

async function copyFile(source: Source, target: Source, found: TreeStat): Promise<void> {
  const progress = showProgress(baseName(source.path).toString(), found.size);
  async function* counted(): AsyncIterable<Buffer> {
    for await (const bytes of source.tree.read(source.path)) {
      yield bytes;
      progress.advance(bytes.length);
    }
  }
  try {
    await target.tree.write(target.path, found.mode, counted());
  } catch (error) {
    throw new CairnError(asCairnError(error).code, `to ${target.tree.show(target.path)}: ${describe(error)}`);
  } finally {
    progress.end();
  }
}

/** Copies, tells each failure, and returns the exit code. */
export async function copyAndReport(
  command: string,
  sources: readonly Source[],
  target: Source,
  recursive: boolean,
): Promise<number> {
  let failures = 0;
  const onFailure = (line: string): void => {
    failures++;
    note(`cairn ${command}: ${line}`);
  };
  await copyAll(sources, target, { recursive, onFailure });
  return failures === 0 ? 0 : 1;
}
