/**
 * Opens that are given back to the master. Nobody waits for that, so it goes along with the next request, of which it saves the
 * wake-up of two processes, and before it, so that what is asked then is answered as after the close.
 */
import type { Clock, Timer } from '../../core/clock.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import { GIVE_BACK_DELAY_MS, MAX_GIVEN_BACK } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import type { CloseRequestInit } from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { Peer } from '../../protocol/rpc.js';
import { Backoff } from './retry.js';

export interface GivenBackOpensOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** The master, when it is connected. */
  readonly peer: () => Peer | undefined;
}

export class GivenBackOpens {
  /** They go with the next request, or soon. */
  private readonly opens: CloseRequestInit[] = [];
  private timer: Timer | undefined;
  /** A new connection was told what is open: what is closed from now on must be given back there. */
  private opensTold = false;

  constructor(private readonly options: GivenBackOpensOptions) {}

  add(open: CloseRequestInit): void {
    const { clock, peer } = this.options;
    // Without a connection the next `reclaim` does not name it.
    if (peer() === undefined && !this.opensTold) return;
    this.opens.push(open);
    if (this.opens.length >= MAX_GIVEN_BACK) this.send();
    else this.timer ??= clock.setTimer(GIVE_BACK_DELAY_MS, () => this.send());
  }

  /** Before a request is sent. */
  sendWaiting(): void {
    if (this.opens.length > 0) this.send();
  }

  send(): void {
    this.timer?.cancel();
    this.timer = undefined;
    if (this.options.peer() === undefined) return;
    for (const open of this.opens.splice(0)) {
      this.sendNow(open).catch((error: unknown) => {
        const { code, message } = asCairnError(error);
        this.options.logger.error({ inode: open.inode, code, reason: message }, 'an open could not be given back');
      });
    }
  }

  /** What is open is being told over a new connection. */
  reclaiming(): void {
    this.opensTold = true;
  }

  connected(): void {
    this.opensTold = false;
    this.send();
  }

  /** The connection is gone: the next `reclaim` does not name what was to be given back. */
  disconnected(): void {
    this.opensTold = false;
    this.opens.length = 0;
  }

  /**
   * Once, and without waiting for a broken connection: after a reconnect `reclaim` tells the truth anyway. Where it is in
   * doubt on a living connection, that connection is ended, so that it is told again.
   */
  private async sendNow(open: CloseRequestInit): Promise<void> {
    const { clock, random } = this.options;
    const backoff = new Backoff(clock, random);
    const peer = this.options.peer();
    if (peer === undefined) return;
    for (;;) {
      if (peer !== this.options.peer()) return;
      try {
        await peer.call(MASTER_METHODS.close, open);
        return;
      } catch (error) {
        if (hasCode(error, 'BUSY', 'UNAVAILABLE')) await backoff.pause();
        else if (hasCode(error, 'DISCONNECTED')) return;
        else {
          peer.close(`closing an inode failed: ${asCairnError(error).message}`);
          return;
        }
      }
    }
  }
}
