package httpapi

import _ "embed"

// OpenAPI is the OpenAPI 3.1 document of every route, in YAML. The package
// openapitest checks that requests and answers keep to it.
//
//go:embed openapi.yaml
var OpenAPI []byte
