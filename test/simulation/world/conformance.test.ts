/** The conformance suite of `FileSystem` on a simulated cluster without faults. */
import t from 'tap';
import { fileSystemConformance } from '../../conformance/filesystem-suite.js';
import { seeds } from './seeds.js';
import { World } from './world.js';

t.setTimeout(0);

for (const seed of seeds(1)) {
  t.test(`seed ${seed}`, async (t) => {
    // Times come from the client that wrote and from the master: the suite compares them.
    const world = new World({ seed, maxSkewMs: 0 });
    await fileSystemConformance(t, async () => {
      const [fs, other] = await world.runReported(async () => {
        await world.startAll();
        return [await world.connect('client-1'), await world.connect('client-2')] as const;
      });
      return {
        fs,
        other,
        tick: () => world.sleep(10),
        run: (body) => world.runReported(body),
        stop: async () => {
          await world.runReported(async () => {
            await fs.close();
            await other.close();
          });
          world.stop();
        },
      };
    });
  });
}
