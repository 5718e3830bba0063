/**
 * The driver that speaks the kernel's own protocol over /dev/fuse, without a library between: with the caller's
 * identity, times in nanoseconds, requests of 1 MiB, and all that the protocol has. It needs the right to mount.
 *
 *   wire/        the descriptor, requests in, answers out, many at a time, and the messages
 *   names.ts, attributes.ts, directories.ts, files.ts, locks.ts             what each request does: a table `handlers` each, by opcode,
 *                which `ServedMount` joins
 *   callers.ts   on whose behalf
 *   memory/      what the kernel remembers, and when it has to forget: inodes, names, pages
 *   gate/        what others are about to change, and how it is made sure that the kernel does not believe it then
 */
import { endianness } from 'node:os';
import { sleep } from '../../core/clock.js';
import { asCairnError, CairnError } from '../../core/errors.js';
import { CLIENT_CACHE_TTL_MS, MAX_MOUNT_OPEN_FILES } from '../../core/limits.js';
import { ROOT_INODE } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { deferred, watched } from '../../core/sync.js';
import { ROOT_CREDENTIALS } from '../../filesystem/filesystem.js';
import type { FileSystem } from '../../filesystem/filesystem.js';
import type { Driver, DriverOptions, Mounted } from '../driver.js';
import { HandleTable } from '../handle-table.js';
import { unmountPath } from '../mountpoint.js';
import { AttributeRequests } from './attributes.js';
import { Callers } from './callers.js';
import { Connection } from './wire/connection.js';
import { KernelDevice } from './wire/device.js';
import type { FuseDevice } from './wire/device.js';
import { DirectoryRequests } from './directories.js';
import { FileRequests } from './files.js';
import { MAX_IO_BYTES, negotiate } from './wire/init.js';
import type { Negotiated } from './wire/init.js';
import { LockRequests } from './locks.js';
import { LostPages } from './memory/lost-pages.js';
import { NameRequests } from './names.js';
import { NodeTable } from './memory/node-table.js';
import { Notifier } from './memory/notifier.js';
import { PageRefresh } from './memory/page-refresh.js';
import { raiseReadahead } from './memory/readahead.js';
import { ChangingContents } from './gate/changing-contents.js';
import { Doorkeeper, GateRefusal } from './gate/doorkeeper.js';
import { Gates } from './gate/gates.js';
import { LateAnswers } from './gate/late-answers.js';
import { Recalls } from './gate/recalls.js';
import type { Threads } from './gate/system-call.js';
import {
  isBeingKilled,
  isKernelThread,
  readStat,
  readStatus,
  readSystemCall,
  readTextAt,
  wasKilled,
} from './proc-status.js';
import type { Opcode } from './wire/protocol.js';
import { answer, DONE } from './wire/request.js';
import type { Handler } from './wire/request.js';
import { SecondLook } from './memory/second-look.js';
import { SizeRefresh } from './memory/size-refresh.js';
import { changedThrough } from './session.js';
import type { OpenDirectory, OpenHandle, Session, Trust } from './session.js';
import { ToldNames } from './memory/told-names.js';

/** As long as the client knows them: so another mount's changes show after two seconds at most, or at the next open. */
const DEFAULT_ATTRIBUTE_TIMEOUT_MS = CLIENT_CACHE_TTL_MS;
/** Pause before the kernel is told again to drop pages. */
const DROP_AGAIN_MS = 1_000;
/** Room for the headers of a WRITE beside its bytes. */
const REQUEST_BYTES = MAX_IO_BYTES + 4096;

/**
 * Linux 5.10. Before 5.8 answers that are on their way to their threads make the kernel believe attributes that it was told to be old;
 * and so a directory whose gate is closed.
 */
const OLDEST_GATED_MINOR = 32;
const OWN_THREADS: Threads = { systemCall: readSystemCall, textAt: readTextAt };

type ServedOptions = Omit<DriverOptions, 'source' | 'mountpoint' | 'allowOther' | 'flags'> & {
  /** Of the machine on which programs use the mount. */
  readonly threads?: Threads;
};

export class KernelDriver implements Driver {
  constructor(private readonly options: DriverOptions) {}

  async mount(): Promise<Mounted> {
    const { source, mountpoint, allowOther, kernelChecks, flags } = this.options;
    if (endianness() !== 'LE') throw new CairnError('EIO', 'the kernel driver is written for little endian machines');
    const device = await KernelDevice.open();
    const served = new ServedMount(device, this.options);
    const closed = watched(served.connection.serve());
    const mountOptions = [
      ...[`user_id=${process.getuid?.() ?? 0}`, `group_id=${process.getgid?.() ?? 0}`],
      ...(kernelChecks ? ['default_permissions'] : []),
      ...(allowOther ? ['allow_other'] : []),
      ...flags,
    ];
    try {
      await device.mount(source, mountpoint, mountOptions);
      await served.ready;
    } catch (error) {
      served.connection.abandon();
      throw error;
    }
    served.connection.mounted();
    await raiseReadahead(mountpoint, this.options.logger);
    return {
      closed,
      openFiles: () => served.files.size,
      unmount: (mode) => unmountPath(mountpoint, mode),
    };
  }
}

/** The requests of one mount and what answers them, on any device. */
export class ServedMount {
  readonly files = new HandleTable<OpenHandle>(MAX_MOUNT_OPEN_FILES);
  readonly nodes: NodeTable;
  readonly connection: Connection;
  /** Resolves when the kernel and this driver have agreed on what they speak. */
  readonly ready: Promise<void>;
  private negotiated: Negotiated | undefined;

  constructor(device: FuseDevice, options: ServedOptions) {
    const { fileSystem, logger, clock, credentials } = options;
    this.nodes = new NodeTable(options.root, clock);
    const agreed = deferred<void>();
    this.ready = agreed.promise;
    const notifier = new Notifier(device, () => this.connection.isClosed);
    const inBackground: Session['inBackground'] = (what, work) => {
      work().catch((error: unknown) => {
        const { code, message } = asCairnError(error);
        logger.warn({ code, reason: message }, what);
      });
    };
    const refresh = new PageRefresh(this.nodes, (nodeid) => notifier.dropPages(nodeid));
    const sizes = new SizeRefresh(
      clock,
      this.nodes,
      notifier,
      (inode, offset) => byteOf(fileSystem, inode, offset),
      (inode, error) => {
        const { code, message } = asCairnError(error);
        logger.warn({ inode, code, reason: message }, 'the kernel was not told that a file has grown');
      },
    );
    const secondLook = new SecondLook({ fileSystem, clock, inBackground });
    const lostPages = new LostPages(
      async (inode) => {
        await notifier.dropPages(this.nodes.nodeidOf(inode));
        this.nodes.attributesDropped(inode, 0);
      },
      async (inode, error) => {
        const { code, message } = asCairnError(error);
        logger.warn({ inode, code, reason: message }, 'pages of a file with lost bytes are not dropped yet');
        await sleep(clock, DROP_AGAIN_MS);
      },
    );
    fileSystem.watchLost?.((inode, what) => {
      inBackground('dropping pages of a file with lost bytes', () => lostPages.drop(inode, what === 'locks'));
    });
    const toldNames = new ToldNames(clock);
    const trust = this.trust(options, { notifier, toldNames, secondLook, inBackground });
    const session: Session = {
      trust,
      secondLook,
      toldNames,
      lostPages,
      inBackground,
      fileSystem,
      clock,
      logger,
      nodes: this.nodes,
      files: this.files,
      directories: new HandleTable<OpenDirectory>(MAX_MOUNT_OPEN_FILES),
      callers: new Callers(readStatus, credentials),
      dropAttributes: (inode, thread) => {
        this.nodes.attributesDropped(inode, thread);
        notifier.dropAttributes(this.nodes.nodeidOf(inode));
      },
      refreshPages: async (inode, thread) => {
        const attributes = await fileSystem.getAttributes(inode);
        await refresh.run(attributes, thread);
        await sizes.run(attributes, thread);
      },
      refreshSize: (attributes, thread) => sizes.run(attributes, thread),
      writtenPastPages: async (inode, offset, length) => {
        const { nodes } = this;
        const nodeid = nodes.nodeidOf(inode);
        if (!nodes.mayHavePages(nodeid, offset)) return;
        if (length !== undefined && nodes.mayHavePages(nodeid, offset + length)) {
          await notifier.dropWritten(nodeid, offset, length);
        } else {
          await notifier.dropWritten(nodeid, offset, Infinity, nodes.droppingFrom(nodeid, offset));
        }
        nodes.attributesDropped(inode, 0);
      },
      collectPages: async (inode) => {
        // It does so before it drops them. Without a handle that may write, nothing is mapped to be written.
        if (!this.nodes.isBeingWritten(inode)) return;
        await notifier.dropPages(this.nodes.nodeidOf(inode));
        this.nodes.attributesDropped(inode, 0);
      },
      wasKilled: (pid) => pid !== 0 && wasKilled(readStat(pid)),
      isKernelThread: (pid) => pid !== 0 && isKernelThread(readStat(pid)),
      attributeTimeoutMs: options.attributeTimeoutMs ?? DEFAULT_ATTRIBUTE_TIMEOUT_MS,
      entryTimeoutMs: options.entryTimeoutMs,
      negotiated: () => {
        if (this.negotiated === undefined) throw new CairnError('EIO', 'a request came before INIT');
        return this.negotiated;
      },
    };
    const handlers: Partial<Record<Opcode, Handler>> = {
      ...new NameRequests(session).handlers,
      ...new AttributeRequests(session).handlers,
      ...new DirectoryRequests(session).handlers,
      ...new FileRequests(session).handlers,
      ...new LockRequests(session).handlers,
      INIT: ({ body }) => {
        try {
          this.negotiated = negotiate(body, {
            kernelChecks: options.kernelChecks,
            isWhole: options.root === ROOT_INODE,
          });
        } catch (error) {
          agreed.reject(error);
          throw error;
        }
        agreed.resolve();
        return answer(this.negotiated.reply);
      },
      DESTROY: () => DONE,
    };
    this.connection = new Connection({
      device,
      bufferBytes: REQUEST_BYTES,
      logger,
      clock,
      handlers,
      waiting: new Set<Opcode>(['SETLKW']),
      onRequest: (nodeid, pid, operation) => {
        this.nodes.places.used(pid, nodeid);
        trust?.lateAnswers.asks(pid);
        trust?.doorkeeper.asks(pid, operation);
      },
      onDone: (nodeid) => changedThrough(session, nodeid),
      onStale: (pid, operation, error) => {
        // Of an open its handler tells more, and a gate says nothing of what is there.
        if (error instanceof GateRefusal) return;
        trust?.doorkeeper.toldStale(pid);
        if (operation !== 'OPEN') secondLook.refused(pid);
      },
      isDying: (pid) => isBeingKilled(readStatus(pid)),
    });
  }

  /** What the kernel may believe because the file system knows that it stays, if it knows that of anything. */
  private trust(
    { fileSystem, clock, kernelChecks, threads = OWN_THREADS }: ServedOptions,
    parts: { notifier: Notifier; toldNames: ToldNames; secondLook: SecondLook; inBackground: Session['inBackground'] },
  ): Trust | undefined {
    const { beliefs } = fileSystem;
    if (beliefs === undefined) return undefined;
    const { notifier, toldNames, secondLook, inBackground } = parts;
    const { nodes } = this;
    const [gates, lateAnswers] = [new Gates(), new LateAnswers(clock)];
    const onOpenRefused = (thread: number): void => secondLook.walksAgain(thread);
    const contents = new ChangingContents({
      clock,
      nodes,
      dropPages: async (inode) => {
        await notifier.dropPages(nodes.nodeidOf(inode));
        nodes.attributesDropped(inode, 0);
      },
      isSettled: async (inode) => beliefs.attributesMs(inode, (await fileSystem.getAttributes(inode)).change) > 0,
      inBackground,
    });
    const recalls = new Recalls({
      ...{ clock, nodes, toldNames, notifier, gates, lateAnswers, contents, inBackground },
      openFiles: () => new Set([...this.files.values()].map(({ file }) => file.inode)),
      canExpire: () => this.negotiated?.has('HAS_EXPIRE_ONLY') === true,
    });
    beliefs.watchRecalls((recalled) => recalls.recall(recalled));
    return {
      ...{ beliefs, gates, lateAnswers, recalls },
      doorkeeper: new Doorkeeper({ clock, gates, threads, onOpenRefused }),
      hasGates: () => kernelChecks && (this.negotiated?.minor ?? 0) >= OLDEST_GATED_MINOR,
      mayRead: (inode) => contents.wait(inode),
    };
  }
}

async function byteOf(fileSystem: FileSystem, inode: InodeId, offset: number): Promise<Buffer> {
  const flags = { read: true, write: false, noAtime: true };
  const { file } = await fileSystem.open(ROOT_CREDENTIALS, inode, flags);
  try {
    return await file.read(offset, 1);
  } finally {
    await file.close();
  }
}
