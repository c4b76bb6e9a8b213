// What survives a reload: the conversation, in this tab's session storage. It holds prompts, answers, and the tickets
// that open single streams for reading; never a key, since a browser writes this storage to its disk.

const NAME = "sluice.conversation";

export function remember(conversation) {
  for (let turns = conversation.turns; ;turns = turns.slice(1)) { // a tab has five megabytes; the oldest turn goes first
    try {
      sessionStorage.setItem(NAME, JSON.stringify({ ...conversation, turns }));
      return;
    } catch {
      if (turns.length === 0) return; // no room at all, or no storage
    }
  }
}

export function recall() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(NAME));
    return Array.isArray(kept?.turns) ? kept : null;
  } catch {
    return null; // no storage, or not ours
  }
}
