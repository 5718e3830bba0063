/** The suite on the model: proves the one with the other. */
import t from 'tap';
import { ModelFileSystem } from '../support/models/model-filesystem.js';
import { fileSystemConformance } from './filesystem-suite.js';

await fileSystemConformance(t, async () => {
  const fs = new ModelFileSystem();
  const other = new ModelFileSystem(fs.state);
  return { fs, other, tick: async () => undefined, stop: () => fs.close() };
});
