/** Small files of JSON that other processes read at any time. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { asCairnError, CairnError, hasCode } from '../core/errors.js';

/** The object in the file, or undefined when there is none. */
export async function readJson(path: string): Promise<Record<string, unknown> | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (hasCode(asCairnError(error), 'ENOENT', 'ENOTDIR')) return undefined;
    throw error;
  }
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

/** Readers see the old or the new content. */
export async function writeJson(path: string, value: object): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const draft = `${path}.${process.pid}`;
  await writeFile(draft, `${JSON.stringify(value, undefined, 2)}\n`);
  await rename(draft, path);
}
