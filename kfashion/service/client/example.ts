// How a front asks the service, by the types of api.d.ts. In Nest.js: a provider, with @Injectable() before the class.

import type { ErrorResponse, Operations, StyleRequest } from "./api";

export class ServiceError extends Error {
  constructor(readonly body: ErrorResponse) {
    super(`${body.error_code}: ${body.error_message} (${body.request_id})`);
  }
}

export class KFashionClient {
  /** `apiKey` is needed to change the catalogue only. */
  constructor(private readonly address: string, private readonly apiKey = "") {}

  dashboard() {
    return this.ask("GET /api/dashboard/kpi");
  }

  /** New products that look like a picture. */
  similar(picture: Blob, topK = 5) {
    return this.ask("POST /api/recommend/customer_input", { body: upload([picture]) }, `?top_k=${topK}`);
  }

  /** New products like those that sell best, and what they have in common. */
  trend(pictures: Blob[]) {
    return this.ask("POST /api/recommend/top10_to_new", { body: upload(pictures) });
  }

  /** New products that a description fits. */
  matching(request: StyleRequest) {
    const headers = { "Content-Type": "application/json" };
    return this.ask("POST /api/recommend/style", { body: JSON.stringify(request), headers });
  }

  remove(itemId: string) {
    const headers = { "X-API-Key": this.apiKey };
    return this.ask("DELETE /api/catalog/new_products/{item_id}", { headers }, "", { item_id: itemId });
  }

  private async ask<O extends keyof Operations>(
    operation: O, init: RequestInit = {}, query = "", names: Record<string, string> = {},
  ): Promise<Operations[O]["answer"]> {
    const [method, pattern = ""] = operation.split(" ");
    const path = pattern.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(names[name] ?? ""));
    const response = await fetch(this.address + path + query, { method, ...init });
    const body: unknown = await response.json();
    if (!response.ok) throw new ServiceError(body as ErrorResponse);
    return body as Operations[O]["answer"];
  }
}

function upload(pictures: Blob[]): FormData {
  const form = new FormData();
  for (const picture of pictures) form.append("file", picture);
  return form;
}
