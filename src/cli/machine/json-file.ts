/** Small files of JSON that other processes read at any time. */
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { asCairnError, CairnError, hasCode } from '../../core/errors.js';
import { makeDirectories } from './make-directories.js';

/** The object in the file, or undefined when there is none. */
export async function readJson(path: string): Promise<Record<string, unknown> | undefined> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CairnError('EINVAL', `${path} is not JSON: restore it, or remove it`, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CairnError('EINVAL', `${path} holds no JSON object: restore it, or remove it`);
  }
  return { ...value };
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (hasCode(asCairnError(error), 'ENOENT', 'ENOTDIR')) return undefined;
    throw error;
  }
}

/** Readers see the old or the new content. What is there already is not written: it needs no space on the disk. */
export async function writeJson(path: string, value: object): Promise<void> {
  const text = `${JSON.stringify(value, undefined, 2)}\n`;
  if ((await readText(path)) === text) return;
  const draft = `${path}.${process.pid}`;
  try {
    await makeDirectories(dirname(path));
    await writeFile(draft, text);
    await rename(draft, path);
  } catch (error) {
    // What failed first is told.
    await rm(draft, { force: true }).catch(() => undefined);
    const { code, message } = asCairnError(error);
    throw new CairnError(code, `cannot write ${path}: ${message}`, { cause: error });
  }
}
