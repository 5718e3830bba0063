/** What is wrong with a cluster, in a word and in sentences, and what helps. */
import type { ServerStatus, StatusReply } from '../protocol/generated/messages.js';
import { cairnCommand } from './machine/program-name.js';

export type Health = 'healthy' | 'degraded' | 'unavailable';

/**
 * unavailable: some data cannot be read now; degraded: all can, with fewer replicas, servers or disks than there should be, or with chunks
 * of which that is not known yet, or nothing can be created.
 */
export function healthOf(status: StatusReply): Health {
  const alive = status.servers.filter((server) => server.alive).length;
  if (status.unavailableChunks > 0 || status.damagedChunks > 0 || alive === 0) return 'unavailable';
  const short = alive < status.wantedReplicas || alive < status.servers.length || diskProblems(status).length > 0;
  return status.underReplicatedChunks + status.doubtfulChunks > 0 || short || status.masterShortOfSpace
    ? 'degraded'
    : 'healthy';
}

/** `clusterWords`: options that name the cluster, for commands that are to work as they are printed. */
export function problemsOf(status: StatusReply, clusterWords: readonly string[] = []): string[] {
  const alive = status.servers.filter((server) => server.alive).length;
  const problems = status.servers.filter((server) => !server.alive).map((server) => awayProblem(server, clusterWords));
  if (status.servers.length === 0) problems.push('there is no chunkserver: start one');
  else if (alive < status.wantedReplicas) {
    problems.push(
      `${alive} chunkservers are up and ${status.wantedReplicas} replicas wanted: start or add chunkservers`,
    );
  }
  problems.push(...diskProblems(status));
  if (status.unavailableChunks > 0) {
    problems.push(
      `${status.unavailableChunks} chunks have no replica on a chunkserver that is up: reads of them wait or fail until it is back`,
    );
  }
  if (status.damagedChunks > 0) {
    problems.push(
      `${status.damagedChunks} chunks have blocks that no replica has whole: reads of those fail until they are written anew, or a ` +
        'chunkserver that has them comes back',
    );
  }
  if (status.underReplicatedChunks > 0) {
    problems.push(
      `${status.underReplicatedChunks} chunks have too few replicas: they are copied as servers and space allow`,
    );
  }
  if (status.doubtfulChunks > 0) {
    problems.push(
      `${status.doubtfulChunks} chunks are being recovered, as a write or a server failed: how many replicas they have is known afterwards`,
    );
  }
  if (status.surplusChunks > 0) {
    problems.push(`${status.surplusChunks} chunks have more replicas than wanted: they are being deleted`);
  }
  if (status.unexaminedChunks > 0) {
    problems.push(
      `${status.unexaminedChunks} chunks are still to be looked at, as another number of replicas is wanted`,
    );
  }
  if (status.masterShortOfSpace) {
    problems.push(
      "the master's disk is nearly full: nothing can be created until space is freed there; removing works",
    );
  }
  const aside = status.servers.filter((server) => server.aside > 0);
  if (aside.length > 0) {
    const where = aside.map(({ serverId, aside: count }) => `${count} on chunkserver ${serverId}`).join(', ');
    problems.push(
      `replicas of chunks that the master does not know are kept aside for 7 days (${where}): if it was restored from a ` +
        'backup and newer metadata turns up, put that back; otherwise they go by themselves, before that when space is needed',
    );
  }
  return problems;
}

/** What is wrong with the disks of servers that are up. */
function diskProblems(status: StatusReply): string[] {
  return status.servers
    .filter((server) => server.alive)
    .flatMap(({ serverId, address, disks }) =>
      disks
        .filter(({ problem }) => problem !== '')
        .map(
          ({ path, problem }) => `disk ${path} of chunkserver ${serverId} at ${address} is out of service: ${problem}`,
        ),
    );
}

function awayProblem(server: ServerStatus, clusterWords: readonly string[]): string {
  const { serverId, address, lastHeardMs, beingRemoved } = server;
  const where = `chunkserver ${serverId} at ${address}`;
  if (beingRemoved) return `${where} is being removed`;
  const remove = cairnCommand('server', 'remove', String(serverId), ...clusterWords);
  return `${where} is down, heard ${Math.round(lastHeardMs / 1000)} s ago: start it; if it is gone for good: ${remove}`;
}
