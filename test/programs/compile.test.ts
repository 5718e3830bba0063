/** A C project: compiled by two processes, linked statically and with shared objects, run from the mount, rebuilt by times. */
import { join } from 'node:path';
import t from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { dropCaches, shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

const PARTS = 12;
const TIMEOUT_MS = 120_000;

/** Parts with a common header, an archive and a shared library of them, and a program for each that adds them up. */
const PROJECT = `
mkdir -p src include
echo '#define BASE 1' > include/base.h
for i in $(seq ${PARTS}); do
  printf '#include "base.h"\\n#include <stdio.h>\\nstatic char room[100000] = "%s";\\n' $i
  printf 'int part_%d(void) { return room[0] ? BASE + %d : 0; }\\n' $i $i
done | split -l 4 --numeric-suffixes=1 --suffix-length=2 --additional-suffix=.c - src/part-
{ printf '#include <stdio.h>\\n'; for i in $(seq ${PARTS}); do printf 'int part_%d(void);\\n' $i; done
  printf 'int main(void) { printf("%%d\\\\n", 0'; for i in $(seq ${PARTS}); do printf ' + part_%d()' $i; done
  printf '); return 0; }\\n'; } > src/main.c
cat > plugin.c <<'END'
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
  void *library = dlopen(argv[1], RTLD_NOW);
  int (*part)(void) = library ? (int (*)(void))dlsym(library, "part_3") : NULL;
  if (argc != 2 || part == NULL) { puts(dlerror()); return 1; }
  printf("%d\\n", part());
  return dlclose(library);
}
END
cat > Makefile <<'END'
PARTS := $(wildcard src/part-*.c)
OBJECTS := $(PARTS:.c=.o)
CFLAGS := -O1 -g -fPIC -Iinclude
all: static shared plugin
static: src/main.o libparts.a
	$(CC) -static -o $@ src/main.o -L. -lparts
shared: src/main.o libparts.so
	$(CC) -o $@ src/main.o -L. -lparts -Wl,-rpath,'$$ORIGIN'
plugin: plugin.c
	$(CC) -o $@ plugin.c -ldl
libparts.a: $(OBJECTS)
	rm -f $@; ar rc $@ $^; ranlib $@
libparts.so: $(OBJECTS)
	$(CC) -shared -o $@ $^
$(OBJECTS): include/base.h
clean:
	rm -f src/*.o *.a *.so static shared plugin
END`;

t.test('a C project', { skip: needsKernelDriver('make', 'gcc', 'ar', 'ranlib') }, async (t) => {
  const cluster = await ProcessCluster.start(t, { limitMs: 280_000, driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const [project, seenByB] = [join(a, 'project'), join(b, 'project')];
  await shell('mkdir "$1"', { args: [project] });
  const run = (script: string, directory = project): Promise<string> =>
    shell(script, { directory, timeoutMs: TIMEOUT_MS });
  const sum = (base: number): string => `${PARTS * base + (PARTS * (PARTS + 1)) / 2}\n`;
  /** How many programs of the compiler make starts. */
  const steps = async (target = 'all'): Promise<number> =>
    Number(await run(`make -j2 ${target} | grep -c '^\\(cc\\|rm\\)' || true`));

  await t.test('make -j2, ar, ld; what it makes runs from the mount', async (t) => {
    await run(PROJECT);
    t.equal(await steps(), PARTS + 6);
    await dropCaches();
    for (const directory of [project, seenByB]) {
      t.equal(await run('./static; ./shared', directory), sum(1).repeat(2));
      t.equal(await run('./plugin ./libparts.so', directory), '4\n');
      t.match(await run('ldd shared', directory), `${directory}/./libparts.so`, 'mapped from the mount');
    }
    t.equal(await run('nm -s libparts.a | grep -c "^part_[0-9]* in"'), `${PARTS}\n`, "ranlib's index");
    t.equal(await run(`gcc -shared -o local.so src/part-*.o; cmp local.so libparts.so; rm local.so`), '');
  });

  await t.test(
    'make sees by the times what is old, to less than a second, also what another mount changed',
    async (t) => {
      t.equal(await steps(), 0, 'nothing to do');
      await run('touch src/part-02.c');
      t.equal(await steps(), 5, 'one part, both libraries, both programs');
      t.equal(await steps(), 0);
      await run('echo "#define BASE 2" > include/base.h');
      t.equal(await steps(), PARTS + 4, 'a header of all parts');
      t.equal(await run('./static; ./shared; ./plugin ./libparts.so'), `${sum(2).repeat(2)}5\n`);
      t.equal(await steps(), 0);
      await run('echo "#define BASE 3" > include/base.h', seenByB);
      // A name or its attributes may be a second old on another mount.
      await run('sleep 1.1');
      t.equal(await steps(), PARTS + 4);
      t.equal(await run('./static; ./shared; ./plugin ./libparts.so', seenByB), `${sum(3).repeat(2)}6\n`);
    },
  );

  await t.test('a program that runs cannot be written to, but replaced; what runs goes on', async (t) => {
    await run('cp /bin/sleep napping; ./napping 60 > /dev/null 2>&1 & echo $! > pid; sleep 0.3');
    t.match(await run('{ echo x >> napping; } 2>&1 || true'), 'Text file busy');
    await run('cp /bin/true other; mv other napping; ./napping');
    t.equal(await run('kill -0 $(<pid) && kill $(<pid) && echo ran'), 'ran\n');
    await run('gcc -pipe -Iinclude -o all src/*.c && ./all > sum');
    t.equal(await run('cat sum'), sum(3));
  });
});
