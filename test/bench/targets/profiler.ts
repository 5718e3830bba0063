/**
 * Loaded before the program of each process whose environment has PROFILE_VARIABLE: samples its CPU until it exits, and
 * writes NAME-PID.cpuprofile into that directory, as Chrome's developer tools read it. (node does not allow --cpu-prof in NODE_OPTIONS.)
 */
import { writeFileSync } from 'node:fs';
import { Session } from 'node:inspector';
import { basename, join } from 'node:path';
import { profileDirectory } from './profiling.js';

const directory = profileDirectory();
if (directory !== undefined) {
  const session = new Session();
  session.connect();
  session.post('Profiler.enable');
  session.post('Profiler.start');
  process.once('exit', () => {
    session.post('Profiler.stop', (error, { profile }) => {
      if (error !== null) return;
      const program = basename(process.argv[1] ?? 'node', '.js');
      const name = program === 'main' ? (process.argv[2] ?? program) : program;
      writeFileSync(join(directory, `${name}-${process.pid}.cpuprofile`), JSON.stringify(profile));
    });
  });
}
