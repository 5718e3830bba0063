import t from 'tap';
import { bytesText, modeText, timeText } from '../../src/cli/format.js';
import { tableText } from '../../src/cli/table.js';

t.test('modes as ls shows them', (t) => {
  t.equal(modeText(0o100644), '-rw-r--r--');
  t.equal(modeText(0o041777), 'drwxrwxrwt');
  t.equal(modeText(0o104755), '-rwsr-xr-x');
  t.equal(modeText(0o102644), '-rw-r-Sr--');
  t.equal(modeText(0o120777), 'lrwxrwxrwx');
  t.end();
});

t.test('sizes, times, tables', (t) => {
  t.equal(bytesText(0), '0 B');
  t.equal(bytesText(1536), '1.5 KiB');
  t.equal(bytesText(250 * 2 ** 30), '250 GiB');
  t.equal(timeText({ seconds: 0, nanoseconds: 0 }), '1970-01-01 00:00');
  t.equal(tableText(['A', 'LONGER'], [[1, 'x']]), 'A  LONGER\n1  x');
  t.end();
});
