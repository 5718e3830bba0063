/** What is in the mounts of recalled-names.test.ts. */
export const DIRECTORIES = ['d0', 'd1', 'd2', 'd1/s', 'd2/s'] as const;
export const NAMES = ['a', 'b', 'c', 'd', 'e'] as const;
