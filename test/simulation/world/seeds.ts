/** Which seeds a test runs: CAIRN_SEED names one, CAIRN_SEEDS how many. */
export function seeds(defaultCount: number, first = 1): number[] {
  const one = process.env['CAIRN_SEED'];
  if (one !== undefined) return [Number(one)];
  const count = Number(process.env['CAIRN_SEEDS'] ?? defaultCount);
  return Array.from({ length: count }, (_, index) => first + index);
}
