/**
 * The table of methods: for each its number on the wire, its messages, who may call it, and whether it carries
 * payload. Numbers are never reused. Adding a method is a line here, messages in cairn.proto, and a handler.
 */
import * as m from './generated/messages.js';
import type { MessageCodec } from './generated/messages.js';

type CallerRole = 'client' | 'chunkserver' | 'master';

export interface MethodDefinition<Request, RequestInit, Reply, ReplyInit> {
  readonly number: number;
  readonly request: MessageCodec<Request, RequestInit>;
  readonly reply: MessageCodec<Reply, ReplyInit>;
  /** Roles whose connections may call it. */
  readonly callers: readonly CallerRole[];
  /** Whether the request, and the reply, may carry payload. */
  readonly payload: 'none' | 'request' | 'reply';
}

function method<Q, QI, R, RI>(
  number: number,
  callers: readonly CallerRole[],
  request: MessageCodec<Q, QI>,
  reply: MessageCodec<R, RI>,
  payload: 'none' | 'request' | 'reply' = 'none',
): MethodDefinition<Q, QI, R, RI> {
  return { number, callers, request, reply, payload };
}

const client = ['client'] as const;
const chunkserver = ['chunkserver'] as const;
const master = ['master'] as const;
const data = ['client', 'chunkserver'] as const;

/** Served by the master. */
export const MASTER_METHODS = {
  openSession: method(1, client, m.OpenSessionRequest, m.OpenSessionReply),
  keepSession: method(2, client, m.KeepSessionRequest, m.KeepSessionReply),
  closeSession: method(3, client, m.CloseSessionRequest, m.Empty),
  reclaim: method(4, client, m.ReclaimRequest, m.ReclaimReply),

  lookup: method(10, client, m.LookupRequest, m.Entry),
  getAttributes: method(11, client, m.GetAttributesRequest, m.Attributes),
  access: method(12, client, m.AccessRequest, m.Empty),
  setAttributes: method(13, client, m.SetAttributesRequest, m.Attributes),
  create: method(14, client, m.CreateRequest, m.CreateReply),
  link: method(15, client, m.LinkRequest, m.Attributes),
  unlink: method(16, client, m.UnlinkRequest, m.UnlinkReply),
  rename: method(17, client, m.RenameRequest, m.RenameReply),
  readLink: method(18, client, m.ReadLinkRequest, m.ReadLinkReply),
  readDirectory: method(19, client, m.ReadDirectoryRequest, m.ReadDirectoryReply),
  setXattr: method(20, client, m.SetXattrRequest, m.Empty),
  removeXattr: method(21, client, m.RemoveXattrRequest, m.Empty),
  getXattr: method(22, client, m.GetXattrRequest, m.GetXattrReply),
  listXattrs: method(23, client, m.ListXattrsRequest, m.ListXattrsReply),
  statFs: method(24, client, m.Empty, m.StatFsReply),
  readDirectories: method(25, client, m.ReadDirectoriesRequest, m.ReadDirectoriesReply),

  open: method(30, client, m.OpenRequest, m.OpenReply),
  close: method(31, client, m.CloseRequest, m.Empty),
  publish: method(32, client, m.PublishRequest, m.Attributes),
  sync: method(33, client, m.SyncRequest, m.Empty),
  getChunks: method(34, client, m.GetChunksRequest, m.GetChunksReply),
  leaseChunk: method(35, client, m.LeaseChunkRequest, m.LeaseChunkReply),
  reportReplica: method(36, data, m.ReportReplicaRequest, m.Empty),
  setLock: method(37, client, m.SetLockRequest, m.SetLockReply),
  getLock: method(38, client, m.GetLockRequest, m.GetLockReply),
  pollLocks: method(39, client, m.PollLocksRequest, m.PollLocksReply),
  cancelLock: method(41, client, m.CancelLockRequest, m.CancelLockReply),
  releaseLocks: method(42, client, m.ReleaseLocksRequest, m.Empty),
  punchChunks: method(43, client, m.PunchChunksRequest, m.Attributes),
  acquireAppend: method(44, client, m.AcquireAppendRequest, m.AcquireAppendReply),
  releaseAppend: method(45, client, m.ReleaseAppendRequest, m.Empty),
  pollAppends: method(46, client, m.PollAppendsRequest, m.PollAppendsReply),
  status: method(40, client, m.Empty, m.StatusReply),
  removeServer: method(47, client, m.RemoveServerRequest, m.RemoveServerReply),

  register: method(50, chunkserver, m.RegisterRequest, m.RegisterReply),
  heartbeat: method(51, chunkserver, m.HeartbeatRequest, m.HeartbeatReply),
  report: method(52, chunkserver, m.ReportRequest, m.ReportReply),
  reportAside: method(54, chunkserver, m.ReportAsideRequest, m.ReportAsideReply),
  reportForwardFailure: method(53, chunkserver, m.ReportForwardFailureRequest, m.Empty),
} as const;

/** Served by a chunkserver. The master calls them over the connection that the chunkserver made to it. */
export const CHUNKSERVER_METHODS = {
  grantLease: method(100, master, m.GrantLeaseRequest, m.Empty),
  revokeLease: method(101, master, m.RevokeLeaseRequest, m.Empty),
  recoverChunk: method(102, master, m.RecoverChunkRequest, m.RecoverChunkReply),
  truncateChunk: method(103, master, m.TruncateChunkRequest, m.Empty),
  copyChunk: method(104, master, m.CopyChunkRequest, m.CopyChunkReply),
  deleteChunks: method(105, master, m.DeleteChunksRequest, m.Empty),
  checkReplica: method(106, master, m.CheckReplicaRequest, m.Empty),
  leaveOut: method(107, master, m.LeaveOutRequest, m.Empty),
  verifyReplica: method(108, master, m.VerifyReplicaRequest, m.VerifyReplicaReply),

  readChunk: method(120, data, m.ReadChunkRequest, m.ReadChunkReply, 'reply'),
  writeChunk: method(121, client, m.WriteChunkRequest, m.SerialReply, 'request'),
  syncChunk: method(122, client, m.SyncChunkRequest, m.SerialReply),
  mapChunk: method(124, client, m.MapChunkRequest, m.MapChunkReply),
  copyRange: method(123, client, m.CopyRangeRequest, m.CopyRangeReply),

  forward: method(140, chunkserver, m.ForwardRequest, m.ForwardReply, 'request'),
  inspectReplica: method(141, chunkserver, m.InspectReplicaRequest, m.InspectReplicaReply),
  repairBlocks: method(142, chunkserver, m.RepairBlocksRequest, m.Empty, 'request'),
  adoptVersion: method(143, chunkserver, m.AdoptVersionRequest, m.Empty),

  writeBatch: method(150, client, m.WriteBatchRequest, m.SerialReply, 'request'),
  forwardBatch: method(151, chunkserver, m.ForwardBatchRequest, m.ForwardReply, 'request'),
} as const;

/** Served by a client, over the connection that it made to the master. */
export const CLIENT_METHODS = {
  recall: method(200, master, m.RecallRequest, m.Empty),
} as const;

type AnyMethod = MethodDefinition<never, never, never, never>;
export type RequestOf<M> = M extends MethodDefinition<infer Q, infer _QI, infer _R, infer _RI> ? Q : never;
export type ReplyInitOf<M> = M extends MethodDefinition<infer _Q, infer _QI, infer _R, infer RI> ? RI : never;

export type MasterMethods = typeof MASTER_METHODS;
export type ChunkserverMethods = typeof CHUNKSERVER_METHODS;
export type ClientMethods = typeof CLIENT_METHODS;
// `any`, because a table of methods of different messages has no narrower type: the codec is contra- and covariant.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type MethodTable = Readonly<Record<string, AnyMethod | MethodDefinition<any, any, any, any>>>;
