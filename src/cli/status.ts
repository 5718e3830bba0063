/** `cairn status`: whether the cluster is well. */
import type { ServerStatus, StatusReply } from '../protocol/generated/messages.js';
import { clientCluster, CLIENT_OPTIONS } from './cluster-address.js';
import { print } from './command.js';
import type { Command } from './command.js';
import { withCluster } from './compose.js';
import { bytesText } from './format.js';
import { tableText } from './table.js';

export const statusCommand: Command = {
  name: 'status',
  summary: 'show health, chunkservers, capacity and under-replicated chunks',
  arguments: [],
  options: [{ flags: '--json', description: 'for programs' }, ...CLIENT_OPTIONS],
  examples: ['cairn status', 'cairn status --json | jq .underReplicatedChunks'],
  async run(_args, options) {
    const cluster = await clientCluster(options);
    const status = await withCluster(cluster, (fileSystem) => fileSystem.status());
    const lines = options.flag('json')
      ? JSON.stringify({ health: healthOf(status), master: cluster.master, ...statusFields(status) }, undefined, 2)
      : report(status, cluster.master);
    print(lines);
    return 0;
  },
};

/** All fields, those that are 0 or false as well: a decoded message has of its own only what was sent. */
export function statusFields(status: StatusReply): StatusReply {
  return {
    clusterId: status.clusterId,
    epoch: status.epoch,
    wantedReplicas: status.wantedReplicas,
    inodes: status.inodes,
    chunks: status.chunks,
    underReplicatedChunks: status.underReplicatedChunks,
    unavailableChunks: status.unavailableChunks,
    garbageChunks: status.garbageChunks,
    surplusChunks: status.surplusChunks,
    unexaminedChunks: status.unexaminedChunks,
    sessions: status.sessions,
    logSequence: status.logSequence,
    masterShortOfSpace: status.masterShortOfSpace,
    servers: status.servers.map(serverFields),
  };
}

function serverFields(server: ServerStatus): ServerStatus {
  return {
    serverId: server.serverId,
    address: server.address,
    alive: server.alive,
    totalBytes: server.totalBytes,
    freeBytes: server.freeBytes,
    chunks: server.chunks,
    lastHeardMs: server.lastHeardMs,
    aside: server.aside,
  };
}

/**
 * unavailable: some data cannot be read now; degraded: all can, with fewer replicas or servers than there should be, or nothing can
 * be created.
 */
export function healthOf(status: StatusReply): 'healthy' | 'degraded' | 'unavailable' {
  const alive = status.servers.filter((server) => server.alive).length;
  if (status.unavailableChunks > 0 || alive === 0) return 'unavailable';
  const short = alive < status.wantedReplicas || alive < status.servers.length;
  return status.underReplicatedChunks > 0 || short || status.masterShortOfSpace ? 'degraded' : 'healthy';
}

const SHORT_OF_SPACE = 'master        its disk is nearly full: nothing can be created until space is freed there';

function report(status: StatusReply, master: string): string {
  const alive = status.servers.filter((server) => server.alive);
  const total = alive.reduce((sum, server) => sum + server.totalBytes, 0);
  const free = alive.reduce((sum, server) => sum + server.freeBytes, 0);
  const servers = status.servers.map((server) => [
    server.serverId,
    server.address,
    server.alive ? 'up' : `down, heard ${Math.round(server.lastHeardMs / 1000)} s ago`,
    server.chunks,
    bytesText(server.totalBytes - server.freeBytes),
    bytesText(server.totalBytes),
  ]);
  return [
    `health        ${healthOf(status)}`,
    `cluster       ${status.clusterId}, master ${master}, epoch ${status.epoch}`,
    `files         ${status.inodes}`,
    `chunks        ${status.chunks} with ${status.wantedReplicas} replicas wanted: ` +
      `${status.underReplicatedChunks} under-replicated, ${status.unavailableChunks} unavailable, ` +
      `${status.garbageChunks} to be deleted`,
    `capacity      ${bytesText(free)} of ${bytesText(total)} free`,
    ...(status.masterShortOfSpace ? [SHORT_OF_SPACE] : []),
    `clients       ${status.sessions}`,
    `chunkservers  ${alive.length} of ${status.servers.length} up`,
    '',
    tableText(['ID', 'ADDRESS', 'STATE', 'CHUNKS', 'USED', 'SIZE'], servers),
  ].join('\n');
}
