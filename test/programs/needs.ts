/** Why a test of real programs cannot run here, or false. What can be installed is no reason: without it a test fails. */
import { execFileSync } from 'node:child_process';
import { noMounts } from '../support/shell.js';

/**
 * Programs are tried on the kernel driver, which needs root. Anyone else is told what he misses; continuous integration
 * runs as root. A program that is not installed is an error: `scripts/install-dependencies --test` brings them all.
 */
export function needsKernelDriver(...programs: readonly string[]): string | false {
  if (process.getuid?.() !== 0) return 'only root may mount with the kernel driver';
  if (noMounts !== false) return noMounts;
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  for (const program of programs) {
    try {
      execFileSync('sh', ['-c', 'command -v "$1"', 'sh', program], { env: { ...process.env, PATH: path } });
    } catch (error) {
      throw new Error(`${program} is missing: run scripts/install-dependencies --test`, { cause: error });
    }
  }
  return false;
}
