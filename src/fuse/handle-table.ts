/** Things that the kernel refers to by a number that we gave it. Numbers are 1 to `capacity`, and used again. */
import { CairnError } from '../core/errors.js';
import { invariant } from '../core/invariant.js';

export class HandleTable<T> {
  private readonly entries = new Map<number, T>();
  private readonly free: number[] = [];
  /** Numbers below it have been given out at least once. */
  private next = 1;

  constructor(private readonly capacity: number) {}

  /** EMFILE when `capacity` things are open. */
  add(value: T): number {
    if (this.entries.size >= this.capacity) {
      throw new CairnError('EMFILE', `${this.capacity} files are open on this mount: close some`);
    }
    const handle = this.free.pop() ?? this.next++;
    this.entries.set(handle, value);
    this.demandAllCounted();
    return handle;
  }

  /** EBADF for a number that is not in use. */
  get(handle: number): T {
    const value = this.entries.get(handle);
    if (value === undefined) throw new CairnError('EBADF', `handle ${handle} is not open`);
    return value;
  }

  /** Takes the entry out; its number may be given again at once. */
  remove(handle: number): T {
    const value = this.get(handle);
    this.entries.delete(handle);
    this.free.push(handle);
    this.demandAllCounted();
    return value;
  }

  /** In the order of opening. */
  values(): IterableIterator<T> {
    return this.entries.values();
  }

  get size(): number {
    return this.entries.size;
  }

  private demandAllCounted(): void {
    invariant(this.entries.size + this.free.length === this.next - 1, 'each number given out is in use or free');
  }
}
