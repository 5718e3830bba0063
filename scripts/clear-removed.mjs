#!/usr/bin/env node
// Removes from dist/ what was compiled from sources that are gone: a removed test would go on being run, and a removed
// module be imported. Part of `npm run build`; what has a source is left to tsc.
import { existsSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const dist = join(root, 'dist');
const OUTPUT = /\.(?:js|js\.map|d\.ts)$/;

const removed = [];
const clear = (directory) => {
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) {
      clear(path);
      if (readdirSync(path).length === 0) rmdirSync(path);
      continue;
    }
    const source = join(root, relative(dist, path)).replace(OUTPUT, '');
    if (!OUTPUT.test(entry.name) || existsSync(`${source}.ts`) || existsSync(`${source}.js`)) continue;
    unlinkSync(path);
    removed.push(relative(dist, path));
  }
};
if (existsSync(dist)) clear(dist);
if (removed.length > 0) {
  const [first] = removed;
  console.log(
    `removed from dist/, without a source: ${first}${removed.length > 1 ? ` and ${removed.length - 1} more` : ''}`,
  );
}
