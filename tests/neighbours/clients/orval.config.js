// orval sends JSON where a request may have bodies of several types, so only the form is left.
const onlyForms = (contract) => {
  for (const path of Object.values(contract.paths)) {
    for (const { requestBody } of Object.values(path)) {
      const form = requestBody?.content?.["multipart/form-data"];
      if (form) requestBody.content = { "multipart/form-data": form };
    }
  }
  return contract;
};
export const upscaled = {
  input: { target: process.env.CONTRACT, override: { transformer: onlyForms } },
  output: { target: "orval_client.ts", client: "fetch" },
};
