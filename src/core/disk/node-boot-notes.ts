/** The notes of a boot, by node:fs. */
import { lstatSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { asCairnError, CairnError, hasCode } from '../errors.js';
import type { BootNotes } from './boot-notes.js';

export interface NotePlaces {
  readonly lasting: readonly string[];
  readonly spare?: readonly string[];
}

/** On the real machine: files of this user alone, in the directories for run-time state. They are small, and in memory mostly. */
export class NodeBootNotes implements BootNotes {
  private readonly places: readonly string[];
  /** So many of `places`, from the first one, are enough. */
  private readonly enough: number;

  /**
   * Directories, made when missing. A note is written to each of `lasting` and read from each: one of them is enough. Into those of
   * `spare` it goes when no other one takes it: who writes waits for them, and they may be on the disk that hangs.
   */
  constructor({ lasting, spare = [] }: NotePlaces = runTimeDirectories()) {
    this.places = [...lasting, ...spare];
    this.enough = lasting.length;
  }

  write(name: string, text: string): void {
    const errors: CairnError[] = [];
    for (const [index, place] of this.places.entries()) {
      if (index >= this.enough && errors.length < index) return;
      try {
        mkdirSync(place, { recursive: true, mode: 0o700 });
        if (!isOwn(place))
          throw new CairnError('EACCES', `${place} belongs to another user, or others may write to it`);
        const path = join(place, name);
        // A reader finds all of it or nothing.
        writeFileSync(`${path}.new`, text, { mode: 0o600 });
        renameSync(`${path}.new`, path);
      } catch (error) {
        errors.push(asCairnError(error));
      }
    }
    const [first] = errors;
    if (first !== undefined && errors.length === this.places.length) throw first;
  }

  read(name: string): readonly string[] {
    return this.ownPlaces().flatMap((place) => {
      try {
        return [readFileSync(join(place, name), 'utf8')];
      } catch (error) {
        if (isMissing(error)) return [];
        throw asCairnError(error);
      }
    });
  }

  remove(name: string): void {
    for (const place of this.ownPlaces()) rmSync(join(place, name), { force: true });
  }

  /** What another user left where this one looks is no note. */
  private ownPlaces(): readonly string[] {
    return this.places.filter((place) => {
      try {
        return isOwn(place);
      } catch (error) {
        if (isMissing(error)) return false;
        throw asCairnError(error);
      }
    });
  }
}

const isMissing = (error: unknown): boolean => hasCode(asCairnError(error), 'ENOENT', 'ENOTDIR');

function isOwn(place: string): boolean {
  const stats = lstatSync(place);
  return stats.isDirectory() && stats.uid === process.getuid?.() && (stats.mode & 0o022) === 0;
}

/** Of this user. That of another user than root goes with his last session; that for temporary files may be on the disk that has failed. */
function runTimeDirectories(): NotePlaces {
  const uid = process.getuid?.() ?? 0;
  const temporary = join(tmpdir(), `cairnfs-${uid}`);
  if (uid === 0) return { lasting: ['/run/cairnfs'], spare: [temporary] };
  const ofUser = process.env['XDG_RUNTIME_DIR'] || `/run/user/${uid}`;
  return { lasting: [join(ofUser, 'cairnfs'), temporary] };
}
