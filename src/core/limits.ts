/**
 * Every bound of CairnFS on memory, queues, messages, retries and waits, with its reason. Those that several parts know, and the relations
 * between them, are in limits/shared.ts; those of one part are in a file for each role. What a format or the kernel prescribes, and
 * how often something is looked at, stands where it is used.
 */
export * from './limits/chunkserver.js';
export * from './limits/client.js';
export * from './limits/master.js';
export * from './limits/mount.js';
export * from './limits/process.js';
export * from './limits/shared.js';
