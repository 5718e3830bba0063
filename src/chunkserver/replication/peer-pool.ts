/** Connections to other chunkservers: one an address, made when needed, the longest unused closed beyond the bound. */
import { MAX_CHUNKSERVER_PEERS } from '../../core/limits.js';
import { watched } from '../../core/sync.js';
import type { Peer } from '../../protocol/rpc.js';

export class PeerPool {
  private readonly peers = new Map<string, Promise<Peer>>();

  constructor(private readonly connect: (address: string) => Promise<Peer>) {}

  /** The connection to `address`. Calls made on it in the order of `get` go out in that order. */
  get(address: string): Promise<Peer> {
    let peer = this.peers.get(address);
    if (peer === undefined) {
      peer = watched(this.open(address));
      this.evict();
    } else {
      this.peers.delete(address);
    }
    this.peers.set(address, peer);
    return peer;
  }

  private open(address: string): Promise<Peer> {
    const peer = this.connect(address);
    const forget = (): void => {
      if (this.peers.get(address) === peer) this.peers.delete(address);
    };
    peer.then((connected) => connected.closed.then(forget, forget), forget);
    return peer;
  }

  private evict(): void {
    for (const [address, peer] of this.peers) {
      if (this.peers.size < MAX_CHUNKSERVER_PEERS) return;
      this.peers.delete(address);
      peer.then(
        (connected) => connected.close('too many connections'),
        () => undefined,
      );
    }
  }

  close(): void {
    for (const peer of this.peers.values()) {
      peer.then(
        (connected) => connected.close('the server stops'),
        () => undefined,
      );
    }
    this.peers.clear();
  }
}
