/** Cases of what only system calls can ask: of directories alone, of a mount or a local disk. */
import type { InodeId } from '../../src/core/ids.js';
import type { Credentials } from '../../src/filesystem/filesystem.js';
import type { DirectoryFileSystem } from '../support/filesystems/directory-filesystem.js';
import type { Argument } from '../support/system-calls/system-call-agent.js';
import { AT, type SystemCalls } from '../support/system-calls/system-calls.js';
import { CaseContext } from './case.js';
import type { ConformanceTarget } from './case.js';

export interface SystemCallCase {
  readonly name: string;
  run(context: SystemCallContext): Promise<void>;
}

export class SystemCallContext extends CaseContext {
  constructor(
    target: ConformanceTarget,
    dir: InodeId,
    private readonly directory: DirectoryFileSystem,
    /** Of the case's directory. */
    readonly path: string,
  ) {
    super(target, dir);
  }

  get system(): SystemCalls {
    return this.directory.system;
  }

  /** 'ok' or the name of the error. */
  async outcome(name: string, args: readonly Argument[], as?: Credentials): Promise<string> {
    try {
      await this.system.agent.call(name, args, { as });
      return 'ok';
    } catch (error) {
      return (error as { code?: string }).code ?? String(error);
    }
  }

  /** open(2) of a path below the directory; the descriptor is the agent's. */
  openPath(
    text: string,
    flags: number,
    mode = 0o644,
    options: { as?: Credentials; umask?: number } = {},
  ): Promise<number> {
    return this.system.openat(AT.FDCWD, `${this.path}/${text}`, flags, mode, options);
  }

  /** What open(2) says, without keeping it open. */
  async opens(text: string, flags: number, as?: Credentials): Promise<string> {
    try {
      await this.system.close(await this.openPath(text, flags, 0o644, { ...(as !== undefined && { as }) }));
      return 'ok';
    } catch (error) {
      return (error as { code?: string }).code ?? String(error);
    }
  }
}
