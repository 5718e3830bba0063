/**
 * Receiving from a connected socket straight into memory of the receiver's choice.
 *
 * A socket of node:net takes memory anew for each 64 KiB that it reads, and an accepted one cannot be told otherwise:
 * `onread` is an option of sockets when they are made. So the connection is moved to a new socket, made with it. The
 * connection's handle has no public name; where it is not found, the socket stays, and its data is copied.
 */
import { Socket, type SocketConstructorOpts } from 'node:net';
import { KIB } from '../core/limits.js';

/** Says where received bytes go. */
export interface BytesReceiver {
  /** Where the next bytes go: asked for after each `took`. Not empty. */
  space(): Uint8Array;
  took(count: number): void;
}

const FIRST_READ_BYTES = 16 * KIB;

/**
 * Hands what comes from now on to `receiver`. Returns the socket to write to, and to listen to for 'error' and 'close';
 * `socket` must not be used any more. Nothing may be listening to its data.
 */
export function receiveInto(socket: Socket, receiver: BytesReceiver): Socket {
  const handle: unknown = Reflect.get(socket, '_handle');
  if (typeof handle !== 'object' || handle === null) {
    socket.setTimeout(0);
    socket.on('data', (data) => copyInto(receiver, data));
    return socket;
  }
  // The first read has its own memory: until it comes, the receiver may be given bytes that were read before.
  let first: Uint8Array | undefined = Buffer.allocUnsafe(FIRST_READ_BYTES);
  const options: SocketConstructorOpts & { handle: object; onread: object } = {
    handle,
    onread: {
      buffer: () => first ?? receiver.space(),
      callback: (count: number, buffer: Uint8Array) => {
        if (buffer === first) {
          first = undefined;
          copyInto(receiver, buffer.subarray(0, count));
        } else {
          receiver.took(count);
        }
      },
    },
  };
  Reflect.set(socket, '_handle', null);
  const moved = new Socket(options);
  // Ends its timers, and its server's count of it; the connection is not its any more.
  socket.destroy();
  return moved;
}

/** Gives `bytes` to `receiver` as if they came from a socket. */
export function copyInto(receiver: BytesReceiver, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) {
    const space = receiver.space();
    const count = Math.min(space.length, bytes.length - at);
    space.set(bytes.subarray(at, at + count));
    receiver.took(count);
    at += count;
  }
}
