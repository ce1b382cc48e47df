// Fences: (generation, instance, attempt), compared as a whole in that order. Written `generation:attempt:instance` for the store.

/** Return whether the first of two fences is outranked by the second. */
export function fenceLess(a, b) {
  if (a.generation !== b.generation) return a.generation < b.generation;
  if (a.instance !== b.instance) return a.instance < b.instance;
  return a.attempt < b.attempt;
}

export function fenceText({ generation, attempt, instance }) {
  return `${generation}:${attempt}:${instance}`;
}

export function fenceOf(text) {
  const [generation, attempt, ...instance] = text.split(':');
  return { generation: Number(generation), attempt: Number(attempt), instance: instance.join(':') };
}
