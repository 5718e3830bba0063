/**
 * `cairn status`: whether the cluster is well. The counts are the master's (master/service/status.ts); the line `health` and the notes
 * are made of them by health.ts.
 */
import type { ServerStatus, StatusReply } from '../../protocol/generated/messages.js';
import { clientCluster, CLIENT_OPTIONS, clusterWords } from '../cluster-address.js';
import { print } from '../command.js';
import type { Command } from '../command.js';
import { withCluster } from '../compose.js';
import { bytesText } from '../format.js';
import { healthOf, problemsOf } from '../health.js';
import { tableText } from '../table.js';

export const statusCommand: Command = {
  name: 'status',
  summary: 'show health, chunkservers, capacity and under-replicated chunks',
  arguments: [],
  options: [{ flags: '--json', description: 'for programs' }, ...CLIENT_OPTIONS],
  examples: ['cairn status', 'cairn status --json | jq .underReplicatedChunks'],
  async run(_args, options) {
    const cluster = await clientCluster(options);
    const status = await withCluster(cluster, (fileSystem) => fileSystem.status());
    const problems = problemsOf(status, clusterWords(options));
    const all = { health: healthOf(status), master: cluster.master, problems, ...statusFields(status) };
    const lines = options.flag('json') ? JSON.stringify(all, undefined, 2) : report(status, cluster.master, problems);
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
    damagedChunks: status.damagedChunks,
    doubtfulChunks: status.doubtfulChunks,
    unexaminedChunks: status.unexaminedChunks,
    sessions: status.sessions,
    holdings: status.holdings,
    recalls: status.recalls,
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
    beingRemoved: server.beingRemoved,
    disks: server.disks.map(({ id, path, problem, generation }) => ({ id, path, problem, generation })),
  };
}

function report(status: StatusReply, master: string, problems: readonly string[]): string {
  const alive = status.servers.filter((server) => server.alive);
  const total = alive.reduce((sum, server) => sum + server.totalBytes, 0);
  const free = alive.reduce((sum, server) => sum + server.freeBytes, 0);
  return [
    `health        ${healthOf(status)}`,
    `cluster       ${status.clusterId}, master ${master}, epoch ${status.epoch}`,
    `files         ${status.inodes}`,
    `chunks        ${status.chunks} with ${status.wantedReplicas} replicas wanted: ` +
      `${status.underReplicatedChunks} under-replicated, ${status.unavailableChunks} unavailable, ` +
      `${status.garbageChunks} to be deleted`,
    `capacity      ${bytesText(free)} of ${bytesText(total)} free`,
    `clients       ${status.sessions}`,
    `chunkservers  ${alive.length} of ${status.servers.length} up`,
    ...problems.map((problem) => `note          ${problem}`),
    '',
    serverTable(status),
  ].join('\n');
}

export function serverTable(status: StatusReply): string {
  const rows = status.servers.map((server) => [
    server.serverId,
    server.address,
    stateOf(server),
    server.chunks,
    server.aside,
    bytesText(server.totalBytes - server.freeBytes),
    bytesText(server.totalBytes),
  ]);
  return tableText(['ID', 'ADDRESS', 'STATE', 'CHUNKS', 'ASIDE', 'USED', 'SIZE'], rows);
}

function stateOf({ alive, beingRemoved, lastHeardMs }: ServerStatus): string {
  if (alive) return 'up';
  return beingRemoved ? 'being removed' : `down, heard ${Math.round(lastHeardMs / 1000)} s ago`;
}
