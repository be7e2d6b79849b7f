/** What is as it was stays the same object: views look at its identity. */

/** What lies deeper is not compared: it may be deeper than the stack. */
const MOST_LEVELS = 100;

/** The one of before, where both hold the same, as JSON has it. Any other object is alike to itself alone. */
export function kept(before, now) {
  return isAlike(before, now) ? before : now;
}

/** As `kept`, for each member, and for the whole where all are of before. */
export function keptIn(before, now) {
  const all = Object.entries(now).map(([name, value]) => [name, kept(before[name], value)]);
  return all.every(([name, value]) => value === before[name]) ? before : Object.fromEntries(all);
}

function isAlike(one, other, levels = MOST_LEVELS) {
  if (Object.is(one, other)) return true;
  if (!levels) return false;
  const areAlike = (value, another) => isAlike(value, another, levels - 1);
  if (Array.isArray(one) && Array.isArray(other))
    return one.length === other.length && one.every((value, place) => areAlike(value, other[place]));
  if (!isPlain(one) || !isPlain(other)) return false;
  const names = Object.keys(one);
  const isSame = (name) => Object.hasOwn(other, name) && areAlike(one[name], other[name]);
  return names.length === Object.keys(other).length && names.every(isSame);
}

function isPlain(value) {
  return value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype;
}
