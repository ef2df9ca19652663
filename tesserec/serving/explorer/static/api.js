// The explorer's own JSON; a refusal arrives as an Error with the sentence that the service gave.

export async function get(path) {
  return answer(await fetch(`api/${path}`));
}

export async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return answer(await fetch(`api/${path}`, { method: "POST", headers, body: JSON.stringify(body), signal }));
}

async function answer(response) {
  const told = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(told.error ?? `The service answered ${response.status}; try again.`);
  return told;
}
