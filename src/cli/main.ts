#!/usr/bin/env node
/**
 * The command `cairn`. Puts the commands together with commander, and maps outcomes to exit codes: 0 done, 1 failed,
 * 2 wrong arguments; the last two with one line on stderr.
 */
import { readFileSync } from 'node:fs';
import { CommanderError, Command as Program } from 'commander';
import { setAudits } from '../core/invariant.js';
import { describe, Options, UsageError } from './command.js';
import type { Command } from './command.js';
import { cairnCommand } from './machine/program-name.js';

/** In the order of --help. Loaded when wanted: no command waits for the packages of all others. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  up: async () => (await import('./commands/up.js')).upCommand,
  down: async () => (await import('./commands/down.js')).downCommand,
  status: async () => (await import('./commands/status.js')).statusCommand,
  server: async () => (await import('./commands/server.js')).serverCommand,
  info: async () => (await import('./commands/info.js')).infoCommand,
  ls: async () => (await import('./commands/ls.js')).lsCommand,
  cat: async () => (await import('./commands/cat.js')).catCommand,
  cp: async () => (await import('./commands/cp.js')).cpCommand,
  put: async () => (await import('./commands/put.js')).putCommand,
  get: async () => (await import('./commands/get.js')).getCommand,
  mount: async () => (await import('./commands/mount.js')).mountCommand,
  umount: async () => (await import('./commands/umount.js')).umountCommand,
  master: async () => (await import('./commands/master.js')).masterCommand,
  chunkserver: async () => (await import('./commands/chunkserver.js')).chunkserverCommand,
};

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

function version(): string {
  const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8');
  const { version } = JSON.parse(text) as { version: string };
  return version;
}

function buildProgram(commands: readonly Command[], onExit: (code: number) => void): Program {
  const program = new Program('cairn')
    .description('CairnFS: a distributed file system that mounts as an ordinary Linux directory')
    .version(version())
    .addHelpText(
      'after',
      `\nExamples:\n  $ ${cairnCommand('up', '/mnt/cairn')}        a whole cluster on this machine\n  $ ${cairnCommand('status')}\n  $ ${cairnCommand('down', '/mnt/cairn')}\n\n` +
        `${cairnCommand('COMMAND', '--help')} explains a command. The cluster is found by --master and --secret, by the environment's\n` +
        'CAIRN_MASTER and CAIRN_SECRET_FILE, or as the one that `up` started on this machine.',
    );
  for (const command of commands) {
    const sub = program.command(command.name).description(command.summary);
    for (const { syntax, description } of command.arguments) sub.argument(syntax, description);
    for (const { flags, description, repeatable } of command.options) {
      if (repeatable === true) sub.option(flags, description, (value, previous: string[]) => [...previous, value], []);
      else sub.option(flags, description);
    }
    sub.addHelpText(
      'after',
      `\nExamples:\n${command.examples.map((example) => `  $ ${asCalledHere(example)}`).join('\n')}`,
    );
    sub.action(async () => {
      onExit(await command.run(sub.args, new Options(sub.opts())));
    });
  }
  for (const each of [program, ...program.commands]) {
    each.exitOverride().configureOutput({ outputError: () => undefined });
  }
  return program;
}

const asCalledHere = (example: string): string => example.replace(/^cairn\b/, cairnCommand());

async function main(argv: readonly string[]): Promise<number> {
  const load = Object.hasOwn(COMMANDS, argv[0] ?? '') ? COMMANDS[argv[0] ?? ''] : undefined;
  const who = load === undefined ? 'cairn' : `cairn ${argv[0] ?? ''}`;
  let exitCode = 0;
  try {
    if (argv.length === 0) throw new UsageError('which command?');
    const commands = await Promise.all((load === undefined ? Object.values(COMMANDS) : [load]).map((each) => each()));
    await buildProgram(commands, (code) => {
      exitCode = code;
    }).parseAsync(argv, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0; // --help, --version
    if (error instanceof CommanderError || error instanceof UsageError) {
      const message = error.message
        .replace(/^error: /, '')
        .split('\n')
        .join(' ');
      process.stderr.write(
        `${who}: ${message}; see ${cairnCommand(...(load === undefined ? [] : [argv[0] ?? '']), '--help')}\n`,
      );
      return EXIT_USAGE;
    }
    process.stderr.write(`${who}: ${describe(error)}\n`);
    return EXIT_FAILED;
  }
}

// For tests: structures are looked through at each change.
setAudits(process.env['CAIRN_AUDITS'] === '1');
// A reader that has seen enough (`cairn cat … | head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : EXIT_FAILED);
});
const code = await main(process.argv.slice(2));
// Connections and libfuse's threads may be left: the work is done, so they must not hold the process.
process.stdout.write('', () => process.exit(code));
