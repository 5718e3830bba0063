/** The client passes the conformance suite of FileSystem, with two clients of one (fake) cluster. */
import t from 'tap';
import { SystemClock, sleep } from '../../src/core/clock.js';
import { fileSystemConformance } from '../conformance/filesystem-suite.js';
import { fakeClients } from '../support/fakes/fake-clients.js';

for (const cacheTtlMs of [0, 1000]) {
  await t.test(`cache time-out of ${cacheTtlMs} ms`, async (t) => {
    await fileSystemConformance(t, async () => {
      const clients = await fakeClients();
      return {
        fs: await clients.connect({ cacheTtlMs }),
        other: await clients.connect({ cacheTtlMs }),
        tick: () => sleep(new SystemClock(), 2),
        stop: () => clients.stop(),
      };
    });
  });
}
