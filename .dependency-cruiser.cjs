// Import directions (docs/architecture.md has the table). `npm run directions`.
//
//   cli → fuse, library → filesystem → core       library → client → filesystem, protocol → core
//   master, chunkserver → protocol → core
//
// A folder imports itself and what is named here; the three roles never import each other; each third-party package
// is imported in the one place that is named here.

const MAY_IMPORT = {
  core: [],
  filesystem: ['core'],
  protocol: ['core'],
  master: ['protocol', 'core'],
  chunkserver: ['protocol', 'core'],
  client: ['filesystem', 'protocol', 'core'],
  library: ['client', 'filesystem', 'protocol', 'core'],
  fuse: ['filesystem', 'core'],
  cli: ['fuse', 'library', 'client', 'filesystem', 'master', 'chunkserver', 'protocol', 'core'],
};

/**
 * The same inside the roles: a folder, and those beside it that it may import. What stands in the role's own folder composes them, and
 * only `main.ts` of the command line, and what `BELOW` names, are imported from below.
 */
const INSIDE = {
  master: {
    store: [],
    log: ['store'],
    state: ['log', 'store'],
    tables: ['state'],
    servers: ['state'],
    sessions: ['servers', 'tables', 'state'],
    namespace: ['tables', 'state'],
    chunks: ['servers', 'tables', 'state', 'store'],
    maintenance: ['chunks', 'sessions', 'servers', 'tables', 'state', 'store'],
    service: ['maintenance', 'chunks', 'namespace', 'sessions', 'servers', 'tables', 'state', 'store'],
  },
  chunkserver: {
    chunk: [],
    disks: [],
    store: ['disks', 'chunk'],
    replication: ['store', 'chunk'],
  },
  client: {
    session: [],
    chunks: ['session'],
    data: ['chunks', 'session'],
    inodes: ['data', 'session'],
    files: ['inodes', 'data', 'chunks', 'session'],
  },
  'fuse/kernel': {
    wire: [],
    memory: ['wire'],
  },
  cli: {
    machine: [],
    trees: [],
    commands: ['trees', 'machine'],
  },
};

/** Files of a role's own folder that its parts import: what they share. */
const BELOW = {
  cli: ['command', 'compose', 'cluster-address', 'format', 'health', 'table', 'mount-options', 'id-options'],
};

/** Package → the only path that may import it. */
const PLACE_OF_PACKAGE = {
  pino: '^src/core/logging/logger\\.ts$',
  ws: '^src/protocol/websocket\\.ts$',
  protobufjs: '^src/protocol/generated/',
  lmdb: '^src/master/store/lmdb-store\\.ts$',
  'sorted-btree': '^src/(core|master/[a-z]+)/[^/]+\\.ts$',
  'fuse-native': '^src/fuse/',
  commander: '^src/cli/',
  'cli-progress': '^src/cli/',
  'cli-table3': '^src/cli/',
};

const packagePath = (name) => `(^|/)node_modules/(@types/)?${name}/`;

module.exports = {
  forbidden: [
    {
      name: 'no-cycles',
      comment: 'Two files that import each other are one concept, or lack a third; types count.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'no-unresolvable',
      comment: 'The file does not exist, or the package is not in package.json.',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: 'product-without-tests',
      comment: 'What is shipped never needs test code, nor a package that is installed for development only.',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(test|scripts)/' },
    },
    {
      name: 'product-without-dev-packages',
      comment: 'A user installs without development packages.',
      severity: 'error',
      from: { path: '^src/' },
      to: { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only'], pathNot: '(^|/)node_modules/@types/' },
    },
    ...Object.entries(MAY_IMPORT).map(([folder, allowed]) => ({
      name: `${folder}-imports-only-${allowed.join('-') || 'itself'}`,
      comment: 'A folder imports what stands below it: MAY_IMPORT, and docs/architecture.md.',
      severity: 'error',
      from: { path: `^src/${folder}/` },
      to: { path: '^src/', pathNot: [folder, ...allowed].map((name) => `^src/${name}/`) },
    })),
    ...Object.entries(INSIDE).flatMap(([role, folders]) =>
      Object.entries(folders).map(([folder, allowed]) => ({
        name: `${role}-${folder}-imports-only-${allowed.join('-') || 'itself'}`.replace('/', '-'),
        comment: 'Inside a role a folder imports what stands below it: INSIDE, and docs/architecture.md.',
        severity: 'error',
        from: { path: `^src/${role}/${folder}/` },
        to: {
          path: `^src/${role}/`,
          pathNot: [
            ...[folder, ...allowed].map((name) => `^src/${role}/${name}/`),
            ...(BELOW[role] ?? []).map((name) => `^src/${role}/${name}\\.ts$`),
          ],
        },
      })),
    ),
    ...Object.entries(PLACE_OF_PACKAGE).map(([name, place]) => ({
      name: `${name}-in-one-place`,
      comment: `Only ${place} may import ${name}: one adapter for each package.`,
      severity: 'error',
      from: { path: '^src/', pathNot: place },
      to: { path: packagePath(name) },
    })),
    {
      name: 'packages-are-listed',
      comment: 'A package that the product imports has a place in .dependency-cruiser.cjs.',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '(^|/)node_modules/', pathNot: Object.keys(PLACE_OF_PACKAGE).concat('node').map(packagePath) },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    // node_modules may be a link to a shared one: paths are then seen as they are imported.
    preserveSymlinks: true,
    enhancedResolveOptions: { conditionNames: ['import', 'require', 'node', 'default', 'types'] },
  },
};
