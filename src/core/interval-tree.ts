/**
 * Ranges that may overlap, found by what they touch in O(log n): an AVL tree by start in which each node knows the last
 * byte of all below it, and whether all below belong to one group. So a search for ranges of other groups passes over any
 * number of the group's own.
 */

export interface Interval {
  readonly start: number;
  /** The last one in it. */
  readonly end: number;
  /** Tells intervals with one start apart, and orders them. */
  readonly order: number;
  readonly group: string;
}

interface Node<T extends Interval> {
  item: T;
  left: Node<T> | undefined;
  right: Node<T> | undefined;
  height: number;
  maxEnd: number;
  /** Of all items here and below; undefined when there are several. */
  group: string | undefined;
}

type Tree<T extends Interval> = Node<T> | undefined;

export class IntervalTree<T extends Interval> {
  private root: Tree<T>;
  private count = 0;

  get size(): number {
    return this.count;
  }

  /** None with its start and order may be there. */
  insert(item: T): void {
    this.root = insert(this.root, item);
    this.count++;
  }

  delete(key: Pick<Interval, 'start' | 'order'>): void {
    this.root = remove(this.root, key);
    this.count--;
  }

  /** Takes out all of a group, which `items` tells; at once if there is nothing else. */
  deleteAll(group: string, items: () => Iterable<Pick<Interval, 'start' | 'order'>>): void {
    if (this.root?.group === group) {
      this.root = undefined;
      this.count = 0;
      return;
    }
    for (const item of items()) this.delete(item);
  }

  /** The first that shares something with `start` to `end` and is not of the group `except`. */
  first(start: number, end: number, except?: string): T | undefined {
    let found: T | undefined;
    this.visit(start, end, except, (item) => {
      found = item;
      return true;
    });
    return found;
  }

  /** All such, in order. */
  all(start: number, end: number, except?: string): T[] {
    const found: T[] = [];
    this.visit(start, end, except, (item) => {
      found.push(item);
      return false;
    });
    return found;
  }

  /** Calls `look` with all such, in order, until it returns true. Returns whether it did. */
  visit(start: number, end: number, except: string | undefined, look: (item: T) => boolean): boolean {
    return visit(this.root, start, end, except, look);
  }
}

function visit<T extends Interval>(
  node: Tree<T>,
  start: number,
  end: number,
  except: string | undefined,
  look: (item: T) => boolean,
): boolean {
  if (node === undefined || node.maxEnd < start) return false;
  if (except !== undefined && node.group === except) return false;
  if (visit(node.left, start, end, except, look)) return true;
  const { item } = node;
  if (item.start > end) return false;
  if (item.end >= start && item.group !== except && look(item)) return true;
  return visit(node.right, start, end, except, look);
}

type Key = Pick<Interval, 'start' | 'order'>;
const compare = (a: Key, b: Key): number => a.start - b.start || a.order - b.order;
const heightOf = (node: Tree<never> | Tree<Interval>): number => node?.height ?? 0;

function update<T extends Interval>(node: Node<T>): Node<T> {
  const { left, right, item } = node;
  node.height = 1 + Math.max(heightOf(left), heightOf(right));
  node.maxEnd = Math.max(item.end, left?.maxEnd ?? -1, right?.maxEnd ?? -1);
  const isUniform =
    (left === undefined || left.group === item.group) && (right === undefined || right.group === item.group);
  node.group = isUniform ? item.group : undefined;
  return node;
}

function rotateRight<T extends Interval>(node: Node<T>, left: Node<T>): Node<T> {
  node.left = left.right;
  left.right = update(node);
  return update(left);
}

function rotateLeft<T extends Interval>(node: Node<T>, right: Node<T>): Node<T> {
  node.right = right.left;
  right.left = update(node);
  return update(right);
}

function balance<T extends Interval>(node: Node<T>): Node<T> {
  const { left, right } = node;
  const lean = heightOf(left) - heightOf(right);
  if (lean > 1 && left !== undefined) {
    if (left.right !== undefined && heightOf(left.left) < heightOf(left.right))
      node.left = rotateLeft(left, left.right);
    return rotateRight(node, node.left ?? left);
  }
  if (lean < -1 && right !== undefined) {
    if (right.left !== undefined && heightOf(right.right) < heightOf(right.left)) {
      node.right = rotateRight(right, right.left);
    }
    return rotateLeft(node, node.right ?? right);
  }
  return update(node);
}

function insert<T extends Interval>(node: Tree<T>, item: T): Node<T> {
  if (node === undefined) {
    return { item, left: undefined, right: undefined, height: 1, maxEnd: item.end, group: item.group };
  }
  if (compare(item, node.item) < 0) node.left = insert(node.left, item);
  else node.right = insert(node.right, item);
  return balance(node);
}

function remove<T extends Interval>(node: Tree<T>, key: Key): Tree<T> {
  if (node === undefined) throw new RangeError(`no interval at ${key.start}`);
  const side = compare(key, node.item);
  if (side < 0) node.left = remove(node.left, key);
  else if (side > 0) node.right = remove(node.right, key);
  else {
    if (node.left === undefined) return node.right;
    if (node.right === undefined) return node.left;
    let next = node.right;
    while (next.left !== undefined) next = next.left;
    node.item = next.item;
    node.right = remove(node.right, next.item);
  }
  return balance(node);
}
