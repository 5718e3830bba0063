// Lint rules, with type information. `npm run lint`; scripts/check runs it with the other static checks.
import tseslint from 'typescript-eslint';
import watchedPromises from './scripts/lint/watched-promises.mjs';

// Why these names are banned: the simulator owns time, chance, disk and network, so that a whole cluster runs again to
// the byte from one seed (docs/architecture.md). One direct call in the logic makes runs differ.
const INJECTED = {
  clock: 'Take the Clock from the constructor (core/clock.ts): the simulator owns time.',
  random: 'Take the Random from the constructor (core/random.ts): the simulator owns chance.',
  disk: 'Take the Disk from the constructor (core/disk/disk.ts): the simulator owns the disk.',
  network: 'Take the Network from the constructor (protocol/transport.ts): the simulator owns the network.',
};

const bannedGlobals = [
  ...['setTimeout', 'setInterval', 'setImmediate'].map((name) => ({ name, message: INJECTED.clock })),
  { name: 'performance', message: INJECTED.clock },
  { name: 'fetch', message: INJECTED.network },
  { name: 'crypto', message: INJECTED.random },
];

const bannedProperties = [
  { object: 'Date', property: 'now', message: INJECTED.clock },
  { object: 'globalThis', property: 'setTimeout', message: INJECTED.clock },
  { object: 'process', property: 'hrtime', message: INJECTED.clock },
  { object: 'Math', property: 'random', message: INJECTED.random },
];

const bannedSyntax = [
  {
    selector: "NewExpression[callee.name='Date'][arguments.length=0]",
    message: INJECTED.clock,
  },
];

const boundElsewhere = {
  selector:
    'Program > :matches(VariableDeclaration, ExportNamedDeclaration > VariableDeclaration) > ' +
    "VariableDeclarator[id.name=/^MAX_|_TIMEOUT_MS$/][init.type='Literal']",
  message: 'A bound belongs into core/limits (core/limits.ts says which file).',
};

const bannedImports = {
  paths: [
    ...['fs', 'node:fs', 'fs/promises', 'node:fs/promises'].map((name) => ({ name, message: INJECTED.disk })),
    ...['timers', 'node:timers', 'timers/promises', 'node:timers/promises', 'node:perf_hooks'].map((name) => ({
      name,
      message: INJECTED.clock,
    })),
    ...['net', 'node:net', 'node:http', 'node:https', 'node:dgram', 'node:tls'].map((name) => ({
      name,
      message: INJECTED.network,
    })),
    ...['crypto', 'node:crypto'].map((name) => ({
      name,
      importNames: [
        'randomBytes',
        'randomInt',
        'randomUUID',
        'randomFill',
        'randomFillSync',
        'getRandomValues',
        'webcrypto',
        'default',
      ],
      message: INJECTED.random,
    })),
  ],
};

export default tseslint.config(
  { ignores: ['dist/', 'node_modules/', '.tap/', 'src/protocol/generated/'] },
  {
    files: ['src/**/*.ts', 'test/**/*.ts'],
    extends: [tseslint.configs.base],
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      // Promises: each is awaited or its rejection handled.
      // tap waits for its subtests itself.
      '@typescript-eslint/no-floating-promises': [
        'error',
        { allowForKnownSafePromises: [{ from: 'package', package: '@tapjs/core', name: 'PromiseWithSubtest' }] },
      ],
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/return-await': ['error', 'error-handling-correctness-only'],
      '@typescript-eslint/only-throw-error': 'error',
      '@typescript-eslint/prefer-promise-reject-errors': 'error',
      'no-async-promise-executor': 'error',
      'no-promise-executor-return': 'off',

      // Types: no way around the checker.
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/no-unsafe-assignment': 'error',
      '@typescript-eslint/no-unsafe-call': 'error',
      '@typescript-eslint/no-unsafe-member-access': 'error',
      '@typescript-eslint/no-unsafe-return': 'error',
      '@typescript-eslint/no-unsafe-argument': 'error',
      '@typescript-eslint/no-unnecessary-type-assertion': 'error',
      '@typescript-eslint/ban-ts-comment': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true, requireDefaultForNonUnion: true },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/no-base-to-string': 'error',
      '@typescript-eslint/restrict-plus-operands': 'error',
      '@typescript-eslint/prefer-nullish-coalescing': ['error', { ignorePrimitives: { boolean: true, string: true } }],

      // Faults that are easy to write and hard to see.
      eqeqeq: 'error',
      'no-empty': 'error',
      'no-empty-function': 'off',
      '@typescript-eslint/no-empty-object-type': 'error',
      'no-constant-condition': ['error', { checkLoops: false }],
      'no-constant-binary-expression': 'error',
      'no-fallthrough': 'error',
      'no-self-compare': 'error',
      'no-unsafe-finally': 'error',
      'no-useless-catch': 'error',
      'no-var': 'error',
      'prefer-const': 'error',
      'no-debugger': 'error',
      'no-throw-literal': 'off',
      'no-warning-comments': ['error', { terms: ['todo', 'fixme', 'xxx'], location: 'start' }],
      'max-lines': ['error', { max: 600, skipBlankLines: true, skipComments: true }],
    },
  },
  {
    // Plain scripts: without types, so only what the syntax shows.
    files: ['scripts/**/*.mjs', '*.js', '*.cjs'],
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      eqeqeq: 'error',
      'no-empty': 'error',
      'no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      'no-var': 'error',
      'prefer-const': 'error',
    },
  },
  {
    // The product: a promise that nobody listens to, and that rejects, ends a server.
    files: ['src/**/*.ts'],
    plugins: { cairn: { rules: { 'watched-promises': watchedPromises } } },
    rules: {
      'max-lines': ['error', { max: 450 }],
      'cairn/watched-promises': 'error',
      '@typescript-eslint/no-floating-promises': ['error', { ignoreVoid: false }],
    },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/cli/**'],
    rules: {
      'no-console': 'error',
      'no-restricted-globals': ['error', ...bannedGlobals],
      'no-restricted-properties': ['error', ...bannedProperties],
      'no-restricted-syntax': ['error', boundElsewhere, ...bannedSyntax],
      '@typescript-eslint/no-restricted-imports': ['error', bannedImports],
    },
  },
  {
    files: ['src/cli/**/*.ts'],
    rules: { 'no-restricted-syntax': ['error', boundElsewhere] },
  },
  {
    // What a format, the kernel or Node prescribes is no bound of ours.
    files: [
      'src/core/limits/**',
      ...['src/core/disk/file-lock.ts', 'src/core/lock-ranges.ts', 'src/filesystem/id-mapping.ts'],
      ...['src/master/log/log-segment.ts', 'src/protocol/frames.ts', 'src/protocol/handshake.ts'],
    ],
    rules: { 'no-restricted-syntax': ['error', ...bannedSyntax] },
  },
  {
    // The production ends of the injected interfaces, and the edge where the kernel is.
    files: [
      ...[
        'src/core/clock.ts',
        'src/core/random.ts',
        'src/core/disk/node-disk.ts',
        'src/core/disk/node-boot-notes.ts',
        'src/core/disk/descriptors.ts',
        'src/core/disk/file-lock.ts',
      ],
      ...['src/core/logging/logger.ts', 'src/core/logging/log-file.ts'],
      ...['src/protocol/websocket.ts', 'src/protocol/websocket-transport.ts', 'src/protocol/bulk-socket.ts'],
      ...[
        'src/fuse/mountpoint.ts',
        'src/fuse/native/fuse-connection.ts',
        'src/fuse/kernel/wire/device.ts',
        'src/fuse/kernel/proc-status.ts',
        'src/fuse/kernel/memory/readahead.ts',
      ],
    ],
    rules: {
      'no-restricted-globals': 'off',
      'no-restricted-properties': 'off',
      'no-restricted-syntax': 'off',
      '@typescript-eslint/no-restricted-imports': 'off',
    },
  },
);
