/** The conformance suite of `FileSystem`, on the master's namespace without network. */
import t from 'tap';
import { fileSystemConformance } from '../../conformance/filesystem-suite.js';
import { openNamespace, tickingTime } from '../../support/filesystems/namespace-host.js';

await fileSystemConformance(t, async () => {
  const { fs, other, state } = await openNamespace({
    now: tickingTime(),
    onFailure: (error) => t.fail(error.message),
  });
  return {
    fs,
    other,
    tick: () => Promise.resolve(),
    stop: async () => {
      await fs.close();
      await other.close();
      await state.stop();
    },
  };
});
