/** Every command that a document, a help text or a message names is there, and has the options that it is named with. */
import { access, constants, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { runCairn } from '../support/process-cluster.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const PROGRAM = String.raw`(?:\S*scripts/)?cairn`;

/** Options of each command, from its --help. */
async function readCommands(): Promise<Map<string, { options: string[]; help: string }>> {
  const { stdout } = await runCairn(['--help']);
  const list = /Commands:\n([^]*?)\n\n/.exec(stdout)?.[1] ?? '';
  const names = [...list.matchAll(/^ {2}([a-z]+)\b/gm)]
    .map((match) => match[1] ?? '')
    .filter((name) => name !== 'help');
  const commands = await Promise.all(
    names.map(async (name) => {
      const { code, stdout: help } = await runCairn([name, '--help']);
      t.equal(code, 0, `cairn ${name} --help`);
      const described = help.slice(0, help.indexOf('\nExamples:'));
      const options = [...described.matchAll(/(?<![\w-])--?[a-z][a-z-]*/g)].map((match) => match[0]);
      return [name, { options, help }] as const;
    }),
  );
  t.ok(names.length >= 13, names.join(' '));
  return new Map(commands);
}

const known = readCommands();

/** Each command line in a text: it begins with `cairn` or a script, and ends with the line, a backtick or a quote. */
function* commandLines(text: string): Iterable<{ program: string; words: string[] }> {
  const joined = text.replaceAll('\\\n', ' ');
  for (const [, line = ''] of joined.matchAll(/(?:^|[`'"(]|\$ |[;:] )((?:\S*scripts\/|cairn )[^\n`'"#|;)]*)/gm)) {
    const [program = '', ...words] = line.trim().split(/\s+/);
    yield { program, words };
  }
}

t.test('commands that documents, help and messages name', async (t) => {
  const commands = await known;
  const check = async (where: string, text: string): Promise<number> => {
    let count = 0;
    for (const { program, words } of commandLines(text)) {
      const script = /(?:^|\/)scripts\/([\w.-]+)$/.exec(program)?.[1];
      if (script !== undefined) await access(join(root, 'scripts', script), constants.X_OK);
      const as = { up: 'up', down: 'down', 'start-master': 'master', 'start-chunkserver': 'chunkserver' };
      const [name = '', ...rest] =
        script !== undefined && script in as ? [as[script as keyof typeof as], ...words] : words;
      if (!new RegExp(`^${PROGRAM}$`).test(program) && !(script !== undefined && script in as)) continue;
      if (!/^[a-z]/.test(name)) continue; // cairn --help, cairn COMMAND
      count++;
      const command = commands.get(name);
      t.ok(command !== undefined, `${where}: cairn ${name}`);
      for (const option of rest.filter((word) => /^--?[a-z]/.test(word))) {
        t.ok([...(command?.options ?? []), '--help'].includes(option), `${where}: cairn ${name} ${option}`);
      }
    }
    return count;
  };

  const checkDocument = async (name: string): Promise<number> => {
    const text = await readFile(join(root, name), 'utf8');
    t.notMatch(text, 'cli/main.js', `${name} names the command, not the file behind it`);
    return check(name, text);
  };
  let documented = await checkDocument('README.md');
  t.ok(documented >= 8, `README.md names ${documented} commands`);
  documented += await checkDocument('CONTRIBUTING.md');
  for (const name of await readdir(join(root, 'docs'))) documented += await checkDocument(join('docs', name));
  for (const [name, { help }] of commands) {
    t.ok((await check(`cairn ${name} --help`, help)) >= 1, `cairn ${name} --help has an example`);
  }
  for (const entry of await readdir(join(root, 'scripts'), { withFileTypes: true })) {
    const { name } = entry;
    if (entry.isFile() && !name.endsWith('.mjs')) {
      await check(`scripts/${name}`, (await readFile(join(root, 'scripts', name), 'utf8')).replace(/^# ?/gm, ''));
    }
  }
  t.comment(`${documented} in documents`);
});

t.test('commands that messages name', async (t) => {
  const commands = await known;
  let count = 0;
  const folder = join(root, 'src');
  for (const entry of await readdir(folder, { recursive: true })) {
    if (!entry.endsWith('.ts') || entry.includes('generated')) continue;
    const source = (await readFile(join(folder, entry), 'utf8')).replace(/\/\*[^]*?\*\/|^\s*\/\/.*$/gm, '');
    const direct = [...source.matchAll(/['"`][^'"`\n]*\bcairn ([a-z]+)\b((?: --?[a-z-]+)*)/g)];
    const made = [...source.matchAll(/cairnCommand\(\s*'([a-z]+)'((?:,\s*'--?[a-z-]+')*)/g)];
    for (const [text, name = '', options = ''] of [...direct, ...made]) {
      count++;
      t.ok(commands.has(name), `${entry}: ${text}`);
      for (const [option] of options.matchAll(/--?[a-z][a-z-]*/g)) {
        t.ok(commands.get(name)?.options.includes(option), `${entry}: ${text}`);
      }
    }
  }
  t.ok(count >= 25, `${count} in messages`);
});
