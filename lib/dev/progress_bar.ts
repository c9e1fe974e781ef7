import cliProgress from "cli-progress";

/** A bar at the end of the terminal's standard error. */
export interface ProgressBar {
  /**
   * Shows how far the work is.
   * @param words values of the format's own placeholders
   */
  show(done: number, total: number, words?: Record<string, string>): void;
  /** Prints lines, which must end, where the bar stands; it moves below them. */
  above(print: () => void): void;
  /** Leaves the bar as it stands; does nothing where none was shown. */
  end(): void;
}

/** What is used of cli-progress, which brings no types. */
interface SingleBar {
  readonly isActive: boolean;
  readonly terminal: { cursorTo(x: number): void; clearRight(): void; cursorSave(): void };
  lastDrawnString: string;
  start(total: number, value: number, words?: Record<string, string>): void;
  setTotal(total: number): void;
  update(value: number, words?: Record<string, string>): void;
  render(): void;
  stop(): void;
}

/** Of seconds; cli-progress gives a word where nothing can be said yet. */
export function duration(seconds: unknown): string {
  if (typeof seconds !== "number") return "…";
  const minutes = Math.floor(seconds / 60);
  return minutes === 0 ? `${seconds} s` : `${minutes} min ${seconds % 60} s`;
}

/** @param format what follows the bar, such as `{value}/{total} {title}` */
export function progressBar(format: string): ProgressBar {
  const bar: SingleBar = new cliProgress.SingleBar(
    { format: `  {bar} ${format}`, hideCursor: true, formatTime: duration },
    cliProgress.Presets.shades_classic,
  );
  return {
    show(done, total, words) {
      if (!bar.isActive) bar.start(total, done, words);
      bar.setTotal(total);
      bar.update(done, words);
    },
    above(print) {
      if (!bar.isActive) return print();
      bar.terminal.cursorTo(0);
      bar.terminal.clearRight();
      print();
      // At its end the cursor goes back to where it was saved, and it draws only what differs from the last time.
      bar.terminal.cursorSave();
      bar.lastDrawnString = "";
      bar.render();
    },
    end() {
      if (bar.isActive) bar.stop();
    },
  };
}
