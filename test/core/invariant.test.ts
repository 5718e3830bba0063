/** What should hold, and does not, is told; dear checks are made where audits are on. */
import t from 'tap';
import { audited, invariant, setAudits } from '../../src/core/invariant.js';

t.test('what does not hold is an error that says what', async (t) => {
  invariant(true, 'water is wet');
  t.throws(() => invariant(false, 'water is dry'), { code: 'INTERNAL', message: /water is dry/ });
});

t.test('a dear check is made only where audits are on', async (t) => {
  let looks = 0;
  const look = (): boolean => ++looks < 2;
  audited(look, 'one look');
  t.equal(looks, 0);
  setAudits(true);
  audited(look, 'one look');
  t.throws(() => audited(look, 'one look'), { code: 'INTERNAL' });
  setAudits(false);
});
