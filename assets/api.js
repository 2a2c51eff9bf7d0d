// Requests to the server, and what their failures mean to a person.

import { knownText, text } from './texts.js';

const SESSION = 'loginToken';

/** A request that the server refused, or that did not reach it (`status` 0). */
export class Failure extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const session = {
  get: () => sessionStorage.getItem(SESSION),
  set: (token) => sessionStorage.setItem(SESSION, token),
  forget: () => sessionStorage.removeItem(SESSION),
};

/** When to come back, in the unit that a person would use. */
function waiting(seconds) {
  if (!(seconds > 0)) return text('error.limit');
  return seconds < 90 ? text('error.limit-second', { count: seconds }) : text('error.limit-minute', { count: Math.ceil(seconds / 60) });
}

/** What a refusal means, in the page's language: found by its code. What has no text there stays as the server says it, in English. */
function explain(response, body) {
  const { status } = response;
  // A refusal of the server itself, not of one of its routes.
  if (status === 404 && body?.statusCode) return text('error.missing');
  if (status === 429) return waiting(Number(response.headers.get('Retry-After')));
  const issue = body?.details?.[0];
  if (issue) return knownText(`issue.${issue.path?.[0]}.${issue.code}`) ?? issue.message;
  if (status >= 500) return text('error.server');
  return knownText(`refused.${body?.code}`) ?? body?.error ?? body?.message ?? text('error.server');
}

let prove = null;

/** Sets what asks for one more proof of who somebody is; gives whether the server has got one. */
export const setProof = (asks) => {
  prove = asks;
};

/**
 * Sends a request and gives the raw response; throws a `Failure` for everything but success. When the server wants one more
 * proof of who asks, that is asked for (unless `proves` says no), and the request goes out again.
 */
export async function request(method, path, { proves = true, ...options } = {}) {
  try {
    return await send(method, path, options);
  } catch (error) {
    if (error.code !== 'REAUTH_REQUIRED' || !proves || !prove || !(await prove())) throw error;
    return send(method, path, options);
  }
}

async function send(method, path, { body, token = session.get() } = {}) {
  // Mails that a request leads to are in the language of the page.
  const headers = { 'Accept-Language': document.documentElement.lang };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: 'no-store' });
  } catch {
    throw new Failure(text('error.network'), 0);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw new Failure(explain(response, said), response.status, said?.code ?? said?.errorCode);
}

/** The same for JSON answers. */
export async function call(method, path, options) {
  const response = await request(method, path, options);
  try {
    return await response.json();
  } catch {
    throw new Failure(text('error.server'), response.status);
  }
}

/** Fetches a file with the session's authority and hands it to the browser as a download. */
export async function download(path, name) {
  const response = await request('GET', path);
  const offered = /filename="([^"]+)"/.exec(response.headers.get('Content-Disposition') ?? '')?.[1];
  const url = URL.createObjectURL(await response.blob());
  const anchor = document.createElement('a');
  anchor.href = url;
  anchor.download = offered ?? name;
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  // The browser reads the data after this turn.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
