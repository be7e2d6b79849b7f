/**
 * What the charts show, out of what GET /api/ws/figures answers. No DOM here.
 *
 * Processes count from their start, and write that down at times of their own; so what happened lately
 * is the difference of two readings of the same process.
 */

const MODES = ['asleep', 'awake', 'fenced', 'polling'];
export const SHOWN_SECONDS = 120;

/** Over so many seconds: with less, a process that is read every two would show every other as none. */
const WINDOW = 5;
/** Without an answer for so long, a line is broken rather than drawn across. */
const GAP = 4;

export class History {
  #nodes = new Map(); // node id → its latest readings, oldest first
  #times = [];
  #rows = {}; // series → values, one for each time

  /** Take in an answer that came at `now`, in epoch seconds. */
  add({ nodes }, now) {
    for (const id of this.#nodes.keys()) if (!(id in nodes)) this.#nodes.delete(id);
    for (const [id, metrics] of Object.entries(nodes)) this.#read(id, metrics);
    const last = this.#times.at(-1);
    if (last !== undefined && now - last > GAP) this.#append(last + GAP / 2, {});
    this.#append(now, this.#sum());
    this.#trim(now);
  }

  get times() {
    return this.#times;
  }

  series(name) {
    return this.#rows[name] ?? [];
  }

  /** Each process as { id, …its metrics, events, deliveries: per second, p99: seconds }. */
  nodes() {
    return [...this.#nodes].map(([id, readings]) => ({
      ...readings.at(-1),
      id,
      events: rate(readings, 'events'),
      deliveries: rate(readings, 'deliveries'),
      p99: quantile([delivered(readings)], 0.99),
    }));
  }

  #read(id, metrics) {
    const readings = this.#nodes.get(id) ?? [];
    // Another process may answer this time, and know only what was written down earlier.
    if (!(metrics.at <= readings.at(-1)?.at)) readings.push(metrics);
    while (readings.length > 2 && metrics.at - readings[0].at > WINDOW) readings.shift();
    this.#nodes.set(id, readings);
  }

  #sum() {
    const all = [...this.#nodes.values()];
    const latest = all.map((readings) => readings.at(-1));
    const waits = all.map(delivered);
    const modes = MODES.map((mode) => [mode, latest.filter(({ relay }) => relay === mode).length]);
    return {
      // Every process reads the whole log, and hands out to its own sockets.
      events: Math.max(0, ...all.map((readings) => rate(readings, 'events'))),
      deliveries: total(all.map((readings) => rate(readings, 'deliveries'))),
      p50: quantile(waits, 0.5),
      p99: quantile(waits, 0.99),
      chats: total(latest.map(({ chats }) => chats)),
      multi: total(latest.map(({ multi }) => multi)),
      notifications: total(
        latest.map(({ connections, chats, multi }) => connections - chats - multi),
      ),
      ...Object.fromEntries(modes),
    };
  }

  #append(time, values) {
    this.#times.push(time);
    for (const name of new Set([...Object.keys(this.#rows), ...Object.keys(values)])) {
      this.#rows[name] ??= this.#times.slice(1).map(() => null);
      this.#rows[name].push(values[name] ?? null);
    }
  }

  #trim(now) {
    const stale = this.#times.findIndex((time) => time >= now - SHOWN_SECONDS - GAP);
    if (stale <= 0) return;
    this.#times.splice(0, stale);
    for (const values of Object.values(this.#rows)) values.splice(0, stale);
  }
}

function total(values) {
  return values.reduce((sum, value) => sum + value, 0);
}

function rate(readings, name) {
  const first = readings[0];
  const last = readings.at(-1);
  return last.at > first.at ? Math.max(0, (last[name] - first[name]) / (last.at - first.at)) : 0;
}

/** The latencies of what was delivered within these readings, as a histogram. */
function delivered(readings) {
  const before = readings[0].latency.counts;
  const { bounds, counts } = readings.at(-1).latency;
  return { bounds, counts: counts.map((count, bucket) => count - before[bucket]) };
}

/**
 * The value that such a part of all values is below; null where there are none. Within a bucket the
 * values are taken to lie evenly.
 */
export function quantile(histograms, part) {
  const [first] = histograms;
  if (!first) return null;
  const { bounds } = first;
  // A process of another release may count by other bounds.
  const alike = histograms.filter((one) => one.counts.length === first.counts.length);
  const counts = first.counts.map((_, bucket) => total(alike.map((one) => one.counts[bucket])));
  let missing = part * total(counts);
  if (missing <= 0) return null;
  const bucket = counts.findIndex((count) => {
    missing -= count;
    return missing <= 0;
  });
  const low = bounds[bucket - 1] ?? 0;
  const high = bounds[bucket] ?? low;
  return high + (missing / counts[bucket]) * (high - low);
}
