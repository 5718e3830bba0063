/** What a command of `cairn` is, apart from how the command line is parsed (main.ts). */
import { asCairnError } from '../core/errors.js';

/** Wrong arguments: one line on stderr, exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

export interface ArgumentSpec {
  /** As in '<file>', '[path]' or '<source...>'. */
  readonly syntax: string;
  readonly description: string;
}

export interface OptionSpec {
  /** As in '-r, --recursive' or '--port <number>'. */
  readonly flags: string;
  readonly description: string;
  /** May be given several times. */
  readonly repeatable?: boolean;
}

export interface Command {
  readonly name: string;
  readonly summary: string;
  readonly arguments: readonly ArgumentSpec[];
  readonly options: readonly OptionSpec[];
  /** Complete command lines. */
  readonly examples: readonly string[];
  /** Throws UsageError for wrong arguments and CairnError for what failed; returns the exit code. */
  run(args: readonly string[], options: Options): Promise<number>;
}

/** The values of a command's options, as text, read as what they must be. */
export class Options {
  constructor(private readonly values: Readonly<Record<string, unknown>>) {}

  text(name: string): string | undefined {
    const value = this.values[name];
    if (value === undefined) return undefined;
    if (typeof value !== 'string' || value === '') throw new UsageError(`--${kebab(name)} needs a value`);
    return value;
  }

  texts(name: string): readonly string[] {
    const value = this.values[name];
    return Array.isArray(value) ? value.map(String) : [];
  }

  required(name: string): string {
    const value = this.text(name);
    if (value === undefined) throw new UsageError(`--${kebab(name)} is missing`);
    return value;
  }

  flag(name: string): boolean {
    return this.values[name] === true;
  }

  /** These, and `values` for what was not given. */
  withDefaults(values: Readonly<Record<string, string | boolean>>): Options {
    return new Options({ ...values, ...this.values });
  }

  /** For '--x' and '--no-x': true, false, or undefined when neither was given. */
  choice(name: string): boolean | undefined {
    const value = this.values[name];
    return typeof value === 'boolean' ? value : undefined;
  }

  whole(name: string, bounds: { readonly min: number; readonly max: number }): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
    if (!(value >= bounds.min && value <= bounds.max)) {
      throw new UsageError(
        `--${kebab(name)} must be a whole number from ${bounds.min} to ${bounds.max}, not '${text}'`,
      );
    }
    return value;
  }

  /** Seconds with decimals, as milliseconds. */
  seconds(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    if (!/^\d{1,6}(\.\d{1,3})?$/.test(text)) {
      throw new UsageError(`--${kebab(name)} must be seconds, such as 0.5, not '${text}'`);
    }
    return Math.round(Number(text) * 1000);
  }

  /** host:port. */
  address(name: string): string | undefined {
    const text = this.text(name);
    if (text !== undefined) checkAddress(text, `--${kebab(name)}`);
    return text;
  }
}

export function checkAddress(text: string, what: string): void {
  const port = /^(?:[^:\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})$/.exec(text)?.[1];
  if (port === undefined || Number(port) > 65_535) {
    throw new UsageError(`${what} must be HOST:PORT, such as 127.0.0.1:9420, not '${text}'`);
  }
}

const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** For what goes along with a result: progress and warnings. */
export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** "EACCES: permission denied, mkdir '/x'", as Node.js puts it, becomes '/x: permission denied'; other text stays. */
function plain(message: string): string {
  const [, reason, path] = /^E[A-Z0-9]+: ([^,]+), \w+ '(.*)'$/.exec(message) ?? [];
  return reason === undefined || path === undefined ? message : `${path}: ${reason}`;
}

/** One line for the operator: the code when it says more than the message. */
export function describe(error: unknown): string {
  const { code, message } = asCairnError(error);
  const line = plain(message.split('\n').join(' ').trim()) || code;
  return line.includes(code) || code === 'INTERNAL' ? line : `${line} (${code})`;
}
