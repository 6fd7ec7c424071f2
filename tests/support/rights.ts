/** Runs `task` as somebody who may do only what the permissions say: root may do all. */
export async function withoutRights(task: () => Promise<void>): Promise<void> {
  const isRoot = process.getuid?.() === 0;
  if (isRoot) process.seteuid!(65534);
  try {
    await task();
  } finally {
    if (isRoot) process.seteuid!(0);
  }
}
