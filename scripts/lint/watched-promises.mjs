/**
 * Lint rule: a promise that is kept to be awaited later has a handler from the moment it is made.
 *
 * A promise that rejects while nobody listens to it ends a Node process, even when somebody would have awaited it a
 * moment later. `no-floating-promises` finds those that nobody keeps; this rule finds the rest:
 *
 *   const sent = send(); await other(); await sent;      // rejects during other()
 *   sends.push(send());  this.sending = send();          // kept for who knows when
 *   { sent: send() }     f(send(), await other())
 *   for (const sent of list.map(send)) await sent;       // the second rejects during the first
 *
 *   const sent = send(); if (wanted) await sent;         // and if not?
 *   this.sending = send().catch((error) => { throw … }); // makes another that rejects
 *
 * What makes one right: await it at once, give it a handler (`.catch(…)`, `.then(…, …)`), or `watched(…)` of core/sync.ts.
 */

const KEEPERS = new Set(['push', 'unshift', 'set', 'add', 'concat', 'splice', 'fill']);
const FUNCTIONS = new Set(['FunctionDeclaration', 'FunctionExpression', 'ArrowFunctionExpression']);
const PAUSES = new Set(['AwaitExpression', 'YieldExpression']);
const EXITS = new Set(['ReturnStatement', 'ThrowStatement']);
const BRANCHES = new Set(['IfStatement', 'ConditionalExpression']);
const LOOPS = new Set(['ForStatement', 'ForInStatement', 'ForOfStatement', 'WhileStatement']);

const functionOf = (node) => {
  let at = node.parent;
  while (at !== null && at !== undefined && !FUNCTIONS.has(at.type)) at = at.parent;
  return at ?? undefined;
};

const isFunction = (node) => node !== undefined && FUNCTIONS.has(node.type);

export default {
  meta: {
    type: 'problem',
    schema: [],
    messages: {
      unwatched:
        'Nobody listens to this promise until it is awaited, and a rejection before that ends the process: await it at once, handle its rejection, or keep watched(promise).',
    },
  },
  create(context) {
    const { sourceCode } = context;
    const services = sourceCode.parserServices;
    const checker = services.program.getTypeChecker();
    const keysOf = (node) => sourceCode.visitorKeys[node.type] ?? [];

    const isPromiseType = (type) =>
      type.isUnion() ? type.types.some(isPromiseType) : ['Promise', 'PromiseLike'].includes(type.symbol?.name ?? '');
    const isListType = (type) =>
      checker.isArrayType(type) && checker.getTypeArguments(type).some((argument) => isPromiseType(argument));
    const typeOf = (node) => services.getTypeAtLocation(node);
    const isPromise = (node) => isPromiseType(typeOf(node));

    /** Whether a node below `root`, in the same function, between two positions, satisfies `matches`. */
    function finds(root, matches, from = -1, to = Infinity) {
      const pending = [root];
      for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
        // What a catch clause does, it does because no promise came.
        if (node !== root && (FUNCTIONS.has(node.type) || node.type === 'CatchClause')) continue;
        if (node.range[1] <= from || node.range[0] >= to) continue;
        if (node.range[0] >= from && node.range[1] <= to && matches(node)) return true;
        for (const key of keysOf(node)) {
          const children = Array.isArray(node[key]) ? node[key] : [node[key]];
          for (const child of children) if (child !== null && child !== undefined) pending.push(child);
        }
      }
      return false;
    }

    /** The handler makes a promise that may reject again: it throws, is async, or returns a promise that nobody handles. */
    function rejectsOn(handler) {
      if (!isFunction(handler)) return false;
      if (handler.async) return true;
      const isOpen = (value) =>
        value?.type !== undefined && isPromise(value) && !(value.type === 'CallExpression' && isHandling(value));
      if (handler.body.type !== 'BlockStatement') return isOpen(handler.body);
      return finds(
        handler.body,
        (node) => node.type === 'ThrowStatement' || (node.type === 'ReturnStatement' && isOpen(node.argument)),
      );
    }

    /** The call gives its promise a handler, or makes one that cannot reject. */
    function isHandling(call) {
      const { callee } = call;
      if (callee.type === 'Identifier') return callee.name === 'watched' || callee.name === 'unawaited';
      if (callee.type !== 'MemberExpression' || callee.property.type !== 'Identifier') return false;
      const name = callee.property.name;
      if (name === 'catch') return call.arguments.length > 0 && !rejectsOn(call.arguments[0]);
      if (name === 'then') return call.arguments.length > 1 && !call.arguments.some(rejectsOn);
      if (name === 'finally') return callee.object.type === 'CallExpression' && isHandling(callee.object);
      return (
        callee.object.type === 'Identifier' &&
        callee.object.name === 'Promise' &&
        ['resolve', 'allSettled'].includes(name)
      );
    }

    /** A promise out of a map or a list was made, and kept, elsewhere. */
    const takesOut = ({ callee }) =>
      callee.type === 'MemberExpression' &&
      ['get', 'shift', 'pop', 'at'].includes(callee.property.name) &&
      ['Map', 'WeakMap', 'Array'].includes(typeOf(callee.object).symbol?.name);

    const variableOf = (identifier) => {
      for (let scope = sourceCode.getScope(identifier); scope !== null; scope = scope.upper) {
        const variable = scope.set.get(identifier.name);
        if (variable !== undefined) return variable;
      }
      return undefined;
    };

    /** `x.catch(…)`, `x.then(…, …)` or `watched(x)` of this reference to x. */
    function attaches(identifier) {
      const { parent } = identifier;
      if (parent.type === 'CallExpression') return parent.arguments.includes(identifier) && isHandling(parent);
      const call = parent.parent;
      return (
        parent.type === 'MemberExpression' &&
        call?.type === 'CallExpression' &&
        call.callee === parent &&
        isHandling(call)
      );
    }

    /** An expression that makes a promise, or a list of them, which nobody listens to. */
    function makesUnwatched(node) {
      switch (node?.type) {
        case 'SpreadElement':
          return makesUnwatched(node.argument);
        case 'SequenceExpression':
          return makesUnwatched(node.expressions.at(-1));
        case 'TSAsExpression':
        case 'TSSatisfiesExpression':
        case 'TSNonNullExpression':
          return makesUnwatched(node.expression);
        case 'ConditionalExpression':
          return makesUnwatched(node.consequent) || makesUnwatched(node.alternate);
        case 'LogicalExpression':
          return makesUnwatched(node.left) || makesUnwatched(node.right);
        case 'AssignmentExpression':
          return makesUnwatched(node.right);
        case 'CallExpression':
          return (isPromise(node) || isListType(typeOf(node))) && !isHandling(node) && !takesOut(node);
        case 'NewExpression': {
          // An executor that takes no `reject` cannot use it.
          const [executor] = node.arguments;
          return isPromise(node) && !(isFunction(executor) && executor.params.length < 2);
        }
        default:
          return false;
      }
    }

    /** The same, or a variable that holds such a promise. */
    function keepsUnwatched(node) {
      if (makesUnwatched(node)) return true;
      if (node?.type !== 'Identifier' || !isPromise(node)) return false;
      const variable = variableOf(node);
      if (variable === undefined || variable.references.some(({ identifier }) => attaches(identifier))) return false;
      const writes = variable.references.filter((reference) => reference.isWrite());
      return writes.length === 0 || writes.some(({ writeExpr }) => makesUnwatched(writeExpr));
    }

    const report = (node) => context.report({ node, messageId: 'unwatched' });

    const interrupts = (node) =>
      PAUSES.has(node.type) || EXITS.has(node.type) || (node.type === 'ForOfStatement' && node.await);

    /** Whether `use` may be left out on the way from `above`: it is in a loop, or in a branch whose other side has no such use. */
    function isConditional(use, above, uses) {
      // `if (made instanceof Promise)`: what decides is whether there is a promise at all.
      const isItself = (node) => node.type === 'Identifier' && node.name === use.name;
      for (let at = use; at.parent !== null && at !== above; at = at.parent) {
        const { parent } = at;
        if (BRANCHES.has(parent.type) && finds(parent.test, isItself)) continue;
        if (LOOPS.has(parent.type) && (at === parent.body || at === parent.update)) return true;
        if (parent.type === 'LogicalExpression' && at === parent.right) return true;
        if (parent.type === 'SwitchCase' || parent.type === 'CatchClause') return true;
        if (!BRANCHES.has(parent.type) || at === parent.test) continue;
        const side = at === parent.consequent ? parent.alternate : parent.consequent;
        const inSide = (each) => side !== null && each.range[0] >= side.range[0] && each.range[1] <= side.range[1];
        const other = uses.find(inSide);
        if (other === undefined || isConditional(other, side, uses)) return true;
        if (finds(side, interrupts, side.range[0], other.range[0])) return true;
      }
      return false;
    }

    /** After it was made at `made`, is the variable first used before anything else can happen? */
    function isUsedAtOnce(variable, made, isList) {
      const home = functionOf(made);
      const uses = variable.references
        .filter((reference) => reference.isRead() && reference.identifier.range[0] >= made.range[1])
        .map(({ identifier }) => identifier)
        .filter((identifier) => functionOf(identifier) === home)
        .sort((a, b) => a.range[0] - b.range[0]);
      const first = uses.find(attaches) ?? uses[0];
      if (first === undefined) return false;
      const root = home ?? sourceCode.ast;
      if (finds(root, interrupts, made.range[1], first.range[0])) return false;
      let block = made;
      while (block.parent !== null && !(block.range[0] <= first.range[0] && block.range[1] >= first.range[1]))
        block = block.parent;
      if (isConditional(first, block, uses)) return false;
      if (!isList) return true;
      const call = first.parent?.type === 'SpreadElement' ? first.parent.parent.parent : first.parent;
      return call?.type === 'CallExpression' || call?.type === 'ReturnStatement';
    }

    return {
      VariableDeclarator(node) {
        if (node.id.type !== 'Identifier' || !makesUnwatched(node.init)) return;
        const variable = variableOf(node.id);
        if (variable !== undefined && !isUsedAtOnce(variable, node, !isPromise(node.init))) report(node.init);
      },
      AssignmentExpression(node) {
        if (!keepsUnwatched(node.right)) return;
        const { parent } = node;
        if (['AwaitExpression', 'ReturnStatement'].includes(parent.type) || isFunction(parent)) return;
        if (node.left.type === 'Identifier') {
          const variable = variableOf(node.left);
          if (variable === undefined || isUsedAtOnce(variable, node, false)) return;
        } else if (parent.type === 'ExpressionStatement') {
          // `this.x ??= make(); return this.x;`
          const left = sourceCode.getText(node.left);
          const statements = parent.parent.body ?? [];
          const next = Array.isArray(statements) ? statements[statements.indexOf(parent) + 1] : undefined;
          const argument =
            next?.type === 'ReturnStatement'
              ? next.argument
              : next?.type === 'ExpressionStatement'
                ? next.expression
                : undefined;
          const taken = argument?.type === 'AwaitExpression' ? argument.argument : argument;
          const names = node.right.type === 'Identifier' ? [left, node.right.name] : [left];
          if (taken !== undefined && taken !== null && names.includes(sourceCode.getText(taken))) return;
          if (taken?.type === 'CallExpression' && isHandling(taken) && sourceCode.getText(taken).includes(left)) return;
        }
        report(node.right);
      },
      // A default: nobody knows what the promise is used for, and when.
      AssignmentPattern(node) {
        if (makesUnwatched(node.right)) report(node.right);
      },
      PropertyDefinition(node) {
        if (keepsUnwatched(node.value)) report(node.value);
      },
      Property(node) {
        if (node.parent.type === 'ObjectExpression' && keepsUnwatched(node.value)) report(node.value);
      },
      ArrayExpression(node) {
        const { parent } = node;
        if (parent.type === 'CallExpression') {
          // Whoever is called takes them over.
          const pause = node.elements.findLastIndex(
            (each) => each !== null && finds(each, (inner) => PAUSES.has(inner.type)),
          );
          node.elements.slice(0, Math.max(0, pause)).filter(keepsUnwatched).forEach(report);
          return;
        }
        for (const element of node.elements) if (keepsUnwatched(element)) report(element);
      },
      ForOfStatement(node) {
        if (!makesUnwatched(node.right) || !isListType(typeOf(node.right))) return;
        if (node.await || finds(node.body, (inner) => PAUSES.has(inner.type))) report(node.right);
      },
      CallExpression(node) {
        const { callee } = node;
        const args = node.arguments;
        if (
          callee.type === 'MemberExpression' &&
          callee.property.type === 'Identifier' &&
          KEEPERS.has(callee.property.name)
        ) {
          for (const argument of args) if (keepsUnwatched(argument)) report(argument);
          return;
        }
        const pause = args.findLastIndex((each) => finds(each, (inner) => PAUSES.has(inner.type)) && !isFunction(each));
        args.slice(0, Math.max(0, pause)).filter(makesUnwatched).forEach(report);
      },
    };
  },
};
