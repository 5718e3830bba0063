/**
 * Locks that the kernel gives up with the process that holds them, however it dies, and that hold in every container of a
 * machine: flock(2). Node has no call for it. The lock belongs to what was opened and not to who asks, so flock(1) of
 * util-linux can ask for it on a descriptor that it inherits, and is gone before anybody looks.
 */
import { spawn } from 'node:child_process';
import { asCairnError, CairnError } from '../errors.js';

/** How flock(1) ends when another has the lock. */
const HELD_ELSEWHERE = 1;
/** Where the child finds the descriptor. */
const INHERITED_FD = 3;
const MAX_SAID_BYTES = 1_000;

/**
 * Locks what `fd` has open, until it is closed or this process ends. False when it is locked already by what was opened
 * elsewhere. A directory can be locked as well as a file.
 */
export function tryLock(fd: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const child = spawn('flock', ['-n', String(INHERITED_FD)], { stdio: ['ignore', 'ignore', 'pipe', fd] });
    let said = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (said.length < MAX_SAID_BYTES) said += text;
    });
    child.once('error', (error) => {
      const { code, message } = asCairnError(error);
      const isMissing = code === 'ENOENT';
      reject(
        new CairnError(
          isMissing ? 'EOPNOTSUPP' : code,
          isMissing ? 'the program flock is missing: install the package util-linux' : `flock: ${message}`,
          { cause: error },
        ),
      );
    });
    child.once('close', (code) => {
      if (code === 0) resolve(true);
      else if (code === HELD_ELSEWHERE && said === '') resolve(false);
      else reject(new CairnError('EIO', `flock ended with ${code ?? 'a signal'}: ${said.trim()}`));
    });
  });
}
