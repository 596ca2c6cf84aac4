//! api-gateway-types
