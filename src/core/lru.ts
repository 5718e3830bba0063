/**
 * A bounded map that forgets what was not used lately: when half of its room is full of what was set or read since, all
 * that is older goes. It holds between half and all of `maxEntries` of the latest used.
 *
 * Two generations rather than one map in the order of use: moving a key to the end of a Map leaves a hole in its hash
 * chain, so a key that is read again and again (the root directory) would get slower with each read.
 */
export class LruMap<K, V> {
  private young = new Map<K, V>();
  private old = new Map<K, V>();
  private readonly generationSize: number;

  constructor(
    maxEntries: number,
    private readonly onEvict: (value: V, key: K) => void = () => undefined,
  ) {
    this.generationSize = Math.max(1, Math.floor(maxEntries / 2));
  }

  get size(): number {
    return this.young.size + this.old.size;
  }

  get(key: K): V | undefined {
    const recent = this.young.get(key);
    if (recent !== undefined) return recent;
    const value = this.old.get(key);
    if (value !== undefined) this.set(key, value);
    return value;
  }

  /** As `get`, without counting as use. */
  peek(key: K): V | undefined {
    return this.young.get(key) ?? this.old.get(key);
  }

  set(key: K, value: V): void {
    this.old.delete(key);
    this.young.set(key, value);
    if (this.young.size <= this.generationSize) return;
    const evicted = this.old;
    this.old = this.young;
    this.old.delete(key);
    this.young = new Map([[key, value]]);
    for (const [forgotten, last] of evicted) this.onEvict(last, forgotten);
  }

  delete(key: K): void {
    this.young.delete(key);
    this.old.delete(key);
  }

  clear(): void {
    this.young.clear();
    this.old.clear();
  }

  *entries(): Generator<[K, V]> {
    yield* this.old.entries();
    yield* this.young.entries();
  }

  *values(): Generator<V> {
    yield* this.old.values();
    yield* this.young.values();
  }
}
