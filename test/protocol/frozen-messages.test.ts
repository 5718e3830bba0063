/**
 * The messages and methods of protocol version 2 as they are on the wire and on disk: every later build reads these
 * bytes, and writes them. With CAIRN_FREEZE=FILE the test writes the fixture with what is new in this build; nothing
 * that is in it may change before the protocol's version does.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';
import t from 'tap';
import * as messages from '../../src/protocol/generated/messages.js';
import type { MessageCodec } from '../../src/protocol/generated/messages.js';
import { CHUNKSERVER_METHODS, CLIENT_METHODS, MASTER_METHODS } from '../../src/protocol/methods.js';

const at = (path: string): string => fileURLToPath(new URL(`../../../${path}`, import.meta.url));
const SCHEMA = at('src/protocol/cairn.proto');
const FIXTURE = at('test/fixtures/messages-version-2.json');

/** A message as JSON has it: bytes are text that begins with `0x`. */
type Value = string | number | boolean | readonly Value[] | { readonly [field: string]: Value };

interface Fixture {
  readonly messages: Readonly<Record<string, { readonly value: Value; readonly bytes: string }>>;
  readonly methods: Readonly<Record<string, number>>;
}

const codecs = messages as unknown as Readonly<Record<string, MessageCodec<unknown, unknown> | undefined>>;
const codecOf = (name: string): MessageCodec<unknown, unknown> => codecs[name] ?? assert.fail(`no message ${name}`);
const encoded = (name: string, value: Value): string =>
  Buffer.from(
    codecOf(name)
      .encode(fromJson(value) as object)
      .finish(),
  ).toString('hex');
const methods = (): Record<string, number> => {
  const numbers: Record<string, number> = {};
  const tables = { master: MASTER_METHODS, chunkserver: CHUNKSERVER_METHODS, client: CLIENT_METHODS };
  for (const [role, table] of Object.entries(tables)) {
    for (const [name, { number }] of Object.entries(table)) numbers[`${role}.${name}`] = number;
  }
  return numbers;
};

const schema = protobuf.loadSync(SCHEMA).lookup('cairn') as protobuf.Namespace;
const types = schema.nestedArray.filter((each): each is protobuf.Type => each instanceof protobuf.Type);

const fixture = JSON.parse(readFileSync(FIXTURE, 'utf8')) as Fixture;
const target = process.env['CAIRN_FREEZE'];
if (target !== undefined) {
  const added = Object.fromEntries(
    types.map((type) => {
      const value = sample(type);
      return [type.name, { value, bytes: encoded(type.name, value) }];
    }),
  );
  const whole: Fixture = {
    messages: { ...added, ...fixture.messages },
    methods: { ...methods(), ...fixture.methods },
  };
  writeFileSync(target, `${JSON.stringify(whole, null, 1)}\n`);
}

t.test('every message of version 2 is read and written as it always was', async (t) => {
  for (const [name, { value, bytes }] of Object.entries(fixture.messages)) {
    t.equal(encoded(name, value), bytes, `${name} is written`);
    assertHolds(codecOf(name).decode(Buffer.from(bytes, 'hex')), fromJson(value), name);
  }
});

t.test('no method has another number', async (t) => {
  const now = methods();
  for (const [name, number] of Object.entries(fixture.methods)) t.equal(now[name], number, name);
});

t.test('the fixture has every message and method', async (t) => {
  const names = types.map((type) => type.name);
  t.same(
    names.filter((name) => fixture.messages[name] === undefined),
    [],
  );
  t.same(
    Object.keys(methods()).filter((name) => fixture.methods[name] === undefined),
    [],
  );
});

/** What was decoded has all that was written; fields that came later have no value. */
function assertHolds(decoded: unknown, value: unknown, what: string): void {
  if (value instanceof Uint8Array || typeof value !== 'object' || value === null) {
    const plain = decoded instanceof Uint8Array ? Buffer.from(decoded) : decoded;
    assert.deepEqual(plain, value, what);
    return;
  }
  if (Array.isArray(value)) assert.equal((decoded as readonly unknown[]).length, value.length, what);
  for (const [field, each] of Object.entries(value)) {
    assertHolds((decoded as Record<string, unknown>)[field], each, `${what}.${field}`);
  }
}

function fromJson(value: Value): unknown {
  if (typeof value === 'string') return value.startsWith('0x') ? Buffer.from(value.slice(2), 'hex') : value;
  if (typeof value !== 'object') return value;
  if (Array.isArray(value)) return (value as readonly Value[]).map(fromJson);
  return Object.fromEntries(Object.entries(value).map(([field, each]) => [field, fromJson(each)]));
}

/** A message with a value in each of its fields, at the ends of what the field holds. */
function sample(type: protobuf.Type, depth = 0): Record<string, Value> {
  const value: Record<string, Value> = {};
  for (const field of type.fieldsArray) {
    field.resolve();
    const one = (turn: number): Value | undefined => sampleField(field, turn, depth);
    const [first, second] = [one(field.id), one(field.id + 1)];
    if (first === undefined || second === undefined) continue;
    value[field.name] = field.repeated ? [first, second] : first;
  }
  return value;
}

function sampleField(field: protobuf.Field, turn: number, depth: number): Value | undefined {
  const { resolvedType: inner } = field;
  // A message within itself ends somewhere.
  if (inner instanceof protobuf.Type) return depth < 4 ? sample(inner, depth + 1) : undefined;
  if (inner instanceof protobuf.Enum) return Object.values(inner.values)[turn % Object.keys(inner.values).length] ?? 0;
  switch (field.type) {
    case 'bool':
      return true;
    case 'string':
      return `${field.name} \u00e9`;
    case 'bytes':
      return `0x00ff${turn.toString(16).padStart(2, '0')}`;
    case 'sint64':
    case 'int64':
      return turn % 2 === 0 ? Number.MAX_SAFE_INTEGER : -(2 ** 40) - turn;
    case 'uint64':
      return turn % 2 === 0 ? Number.MAX_SAFE_INTEGER : 2 ** 33 + turn;
    case 'sint32':
    case 'int32':
      return turn % 2 === 0 ? 2 ** 31 - 1 : -(2 ** 31) + turn;
    case 'uint32':
    case 'fixed32':
      return turn % 2 === 0 ? 2 ** 32 - 1 : turn;
    default:
      return assert.fail(`a sample of ${field.type} is missing`);
  }
}
