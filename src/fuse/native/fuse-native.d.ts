/** The parts of fuse-native 2.2.6 that fuse-native-driver.ts uses, some of them internal to it: see there. */
declare module 'fuse-native' {
  /** Called once for each request: `result` is 0, a count, or a negative errno; what follows depends on the request. */
  export type Signal = (result: number, ...rest: unknown[]) => void;

  export interface FuseNativeOptions {
    fsname?: string;
    defaultPermissions?: boolean;
    allowOther?: boolean;
    autoCache?: boolean;
    timeout?: false;
  }

  export default class Fuse {
    constructor(mountpoint: string, implemented: Record<string, unknown>, options: FuseNativeOptions);
    /** By operation number: (thread's state, operation number, arguments …). */
    protected readonly _handlers: ((thread: Buffer, operation: number, ...args: unknown[]) => void)[];
    mount(callback: (error: Error | null) => void): void;
  }
}
