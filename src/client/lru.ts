/** A map that forgets what was used longest ago when it is full. Reading counts as use. */
export class LruMap<K, V> {
  private readonly map = new Map<K, V>();

  constructor(
    private readonly maxEntries: number,
    private readonly onEvict: (value: V, key: K) => void = () => undefined,
  ) {}

  get size(): number {
    return this.map.size;
  }

  get(key: K): V | undefined {
    const value = this.map.get(key);
    if (value === undefined) return undefined;
    this.map.delete(key);
    this.map.set(key, value);
    return value;
  }

  /** As `get`, without counting as use. */
  peek(key: K): V | undefined {
    return this.map.get(key);
  }

  set(key: K, value: V): void {
    this.map.delete(key);
    this.map.set(key, value);
    if (this.map.size <= this.maxEntries) return;
    for (const [oldest, evicted] of this.map) {
      this.map.delete(oldest);
      this.onEvict(evicted, oldest);
      return;
    }
  }

  delete(key: K): void {
    this.map.delete(key);
  }

  clear(): void {
    this.map.clear();
  }

  values(): IterableIterator<V> {
    return this.map.values();
  }
}
