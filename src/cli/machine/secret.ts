/** The file with the cluster's secret: 64 hexadecimal digits, for its owner's eyes only. */
import { chmod, link, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { asCairnError, CairnError, hasCode } from '../../core/errors.js';
import { SystemRandom } from '../../core/random.js';
import { makeDirectories } from './make-directories.js';

const SECRET_BYTES = 32;

export async function readSecret(path: string): Promise<Buffer> {
  let text: string;
  try {
    const { mode } = await stat(path);
    if ((mode & 0o077) !== 0) {
      throw new CairnError(
        'EACCES',
        `others may read the secret ${path}: chmod 600 ${path}, and make a new one if somebody may have read it`,
      );
    }
    text = (await readFile(path, 'utf8')).trim();
  } catch (error) {
    const fault = asCairnError(error);
    if (fault.code === 'EACCES' && fault.cause !== undefined) {
      const remedy = 'run this as its owner, or give --secret with a copy of your own, mode 600';
      throw new CairnError('EACCES', `you may not read the secret ${path}: ${remedy}`, { cause: error });
    }
    if (fault.code !== 'ENOENT') throw fault;
    throw new CairnError(
      'ENOENT',
      `there is no secret ${path}: copy the secret of the master's machine there, mode 600`,
    );
  }
  if (!/^[0-9a-fA-F]{64}$/.test(text))
    throw new CairnError(
      'EINVAL',
      `${path} is no secret, as it does not have 64 hex digits: copy the secret of the master's machine there`,
    );
  return Buffer.from(text, 'hex');
}

/** Reads the secret; makes a new one first when there is none. */
export async function readOrCreateSecret(path: string): Promise<Buffer> {
  try {
    return await readSecret(path);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
  await makeDirectories(dirname(path));
  const random = new SystemRandom();
  const draft = `${path}.${random.bytes(8).toString('hex')}`;
  try {
    await writeFile(draft, `${random.bytes(SECRET_BYTES).toString('hex')}\n`, { mode: 0o600 });
    await chmod(draft, 0o600);
    await link(draft, path); // whole or not at all, and never over another
  } catch (error) {
    const { code, message } = asCairnError(error);
    if (code !== 'EEXIST') throw new CairnError(code, `cannot write ${path}: ${message}`, { cause: error });
  } finally {
    await rm(draft, { force: true });
  }
  return readSecret(path);
}
